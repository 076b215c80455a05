import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { resolve } from "node:path";

const REPOSITORY = resolve(import.meta.dirname, "../../..");
const OWN = resolve(REPOSITORY, ".venv/bin/python");
export const PYTHON = process.env["SAM2FAST_PYTHON"] ?? (existsSync(OWN) ? OWN : "python3");

const START_MS = 120_000;
const END_MS = 15_000;

export interface Server {
  readonly address: string;
  /** Stops the server by SIGINT or SIGKILL. */
  stop(signal?: "SIGINT" | "SIGKILL"): Promise<void>;
}

/** Python's arguments for a command of sam2fast. */
export function sam2fast(...words: string[]): string[] {
  return ["-c", "from sam2fast.cli import main; main()", ...words];
}

/** Starts `sam2fast serve` with nano and waits until it answers. */
export async function serve(data: string, ...options: string[]): Promise<Server> {
  const child = spawn(PYTHON, sam2fast("serve", "--model", "nano", "--data", data, ...options), {
    env: { ...process.env, OMP_NUM_THREADS: "1", PYTHONUNBUFFERED: "1" },
    detached: true, // a process group of its own, so that all of it can be killed
  });
  let output = "";
  child.stderr.on("data", (bytes: Buffer) => (output += bytes.toString()));
  const address = await new Promise<string>((resolve, reject) => {
    const timeout = setTimeout(() => reject(new Error(`the server does not start: ${output}`)), START_MS);
    child.stdout.on("data", (bytes: Buffer) => {
      output += bytes.toString();
      const found = /(http:\/\/[\d.]+:\d+)/.exec(output)?.[1];
      if (found) {
        clearTimeout(timeout);
        resolve(found);
      }
    });
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}: ${output}`)));
  });
  return { address, stop: (signal = "SIGINT") => stop(child, signal) };
}

async function stop(child: ChildProcess, signal: "SIGINT" | "SIGKILL"): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const group = -child.pid!;
  if (signal === "SIGKILL") process.kill(group, signal);
  else child.kill(signal);
  const timeout = setTimeout(() => process.kill(group, "SIGKILL"), END_MS);
  await ended;
  clearTimeout(timeout);
}
