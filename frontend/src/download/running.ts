import { create } from "zustand";
import { asApiError } from "../api/errors";
import { handleFailure } from "../state/failures";
import { announce, getState, notify, setState } from "../state/store";
import { store } from "../state/stored";
import { formatSize, saveFile } from "./files";

export interface Progress {
  /** What is being done. */
  readonly what: string;
  /** 0 to 1; null if it is not known. */
  readonly share: number | null;
}

export type Group = "For training" | "For editing" | "To continue";

/** A file that is offered. */
export interface Offer {
  readonly name: string;
  readonly group: Group;
  readonly what: string;
  readonly make: (
    report: (progress: Progress) => void,
    signal: AbortSignal,
  ) => Promise<{ name: string; content: Blob } | null>;
}

interface Running {
  /** The setting and name of the file that is made; null if none is. */
  readonly busy: string | null;
  readonly progress: Progress;
  readonly finished: string;
  readonly problem: string;
}

const BEGUN: Progress = { what: "Writing", share: null };

/** The file that is made, also after the dialog is closed. */
export const useDownload = create<Running>(() => ({ busy: null, progress: BEGUN, finished: "", problem: "" }));

let abort = new AbortController();

/** Makes a file and saves it. @param setting remembers the last download */
export async function download(setting: string, { name, make }: Offer): Promise<void> {
  const { signal } = (abort = new AbortController());
  const { session } = getState();
  const ask = (event: Event) => event.preventDefault(); // the browser asks before it leaves the page
  window.addEventListener("beforeunload", ask);
  useDownload.setState({ busy: `${setting} ${name}`, progress: BEGUN, finished: "", problem: "" });
  try {
    const file = await make((progress) => useDownload.setState({ progress }), signal);
    if (!file || signal.aborted) return;
    saveFile(file.content, file.name);
    store(setting, name);
    useDownload.setState({ finished: `${file.name}, ${formatSize(file.content.size)}` });
    announce(`${file.name} is downloaded.`);
  } catch (error) {
    if (signal.aborted) return;
    const { failure, message } = asApiError(error);
    useDownload.setState({ problem: message });
    const isShown = getState().dialog === "download";
    if (!isShown) notify("error", `${name}: ${message}`);
    if (failure === "network" || failure === "session") {
      if (isShown) setState({ dialog: null });
      handleFailure(error, session);
    }
  } finally {
    window.removeEventListener("beforeunload", ask);
    useDownload.setState({ busy: null });
  }
}

export const cancelDownload = () => abort.abort();
export const forgetOutcome = () => useDownload.setState({ finished: "", problem: "" });
