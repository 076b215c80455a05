/** A division into training and validation: the percentage of validation, and the seed that chooses it. */
export interface Split {
  readonly percent: number;
  readonly seed: number;
}

/**
 * The names for validation: one at least, and all but one at most; as `sam2fast/demo/server/photo_routes.py` chooses
 * them.
 */
export async function validationOf(names: ReadonlySet<string>, { percent, seed }: Split): Promise<Set<string>> {
  const count = Math.min(Math.max(1, Math.floor((names.size * percent + 50) / 100)), names.size - 1);
  const entries = await Promise.all(
    [...names].map(async (name) => ({ name, digest: await sha256(`${seed} ${name}`) })),
  );
  entries.sort((a, b) => (a.digest < b.digest ? -1 : 1));
  return new Set(entries.slice(0, count).map(({ name }) => name));
}

/** In hexadecimal digits. */
export async function sha256(content: string | ArrayBuffer): Promise<string> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
