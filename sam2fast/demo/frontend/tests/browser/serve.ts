import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { resolve } from "node:path";

const REPOSITORY = resolve(import.meta.dirname, "../../../../..");
const OWN = resolve(REPOSITORY, ".venv/bin/python");
export const PYTHON = process.env["SAM2FAST_PYTHON"] ?? (existsSync(OWN) ? OWN : "python3");

const START_MS = 120_000;
const END_MS = 15_000;

export interface Server {
  readonly address: string;
  /** Ends it as Ctrl-C does, or at once. */
  stop(signal?: "SIGINT" | "SIGKILL"): Promise<void>;
}

/** The real `sam2fast serve` with nano, once it answers. */
export async function serve(data: string, ...options: string[]): Promise<Server> {
  const child = spawn(
    PYTHON,
    ["-c", "from sam2fast.cli import main; main()", "serve", "--model", "nano", "--data", data, ...options],
    {
      env: { ...process.env, OMP_NUM_THREADS: "1", PYTHONUNBUFFERED: "1" },
      detached: true, // a group of its own, which is killed whole
    },
  );
  let said = "";
  child.stderr.on("data", (bytes: Buffer) => (said += bytes.toString()));
  const address = await new Promise<string>((resolve, reject) => {
    const tooLate = setTimeout(() => reject(new Error(`the server does not start: ${said}`)), START_MS);
    child.stdout.on("data", (bytes: Buffer) => {
      said += bytes.toString();
      const found = /(http:\/\/[\d.]+:\d+)/.exec(said)?.[1];
      if (found) {
        clearTimeout(tooLate);
        resolve(found);
      }
    });
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}: ${said}`)));
  });
  return { address, stop: (signal = "SIGINT") => stop(child, signal) };
}

async function stop(child: ChildProcess, signal: "SIGINT" | "SIGKILL"): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const group = -child.pid!;
  if (signal === "SIGKILL") process.kill(group, signal);
  else child.kill(signal);
  const patience = setTimeout(() => process.kill(group, "SIGKILL"), END_MS);
  await ended;
  clearTimeout(patience);
}
