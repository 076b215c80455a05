import { create } from "zustand";
import { asApiError } from "../api/errors";
import { changeModel, downloadModel, getModels, type Models } from "../api/models";
import { getLimits } from "../api/rest";
import { restart } from "../project/session";
import { announce, getState, notify, setState, useStore } from "../state/store";
import { readStored, store } from "../state/stored";

const POLL_MS = 700; // while something is downloaded

interface ModelsState {
  /** Null until the server has answered, and for servers with one model only. */
  models: Models | null;
  /** The name of the model that is being loaded. */
  loading: string | null;
  problem: string;
  /** Measured in the last track. */
  framesPerSecond: number | null;
}

export const useModels = create<ModelsState>(() => ({
  models: null,
  loading: null,
  problem: "",
  framesPerSecond: null,
}));

let timer = 0;

/** Loads the list of models, and again while a download runs. */
export async function refreshModels(): Promise<void> {
  clearTimeout(timer);
  const models = await getModels().catch((error: unknown) =>
    asApiError(error).failure === "network" ? useModels.getState().models : null,
  );
  useModels.setState({ models });
  if (models?.models.some(({ state }) => state === "downloading")) {
    timer = window.setTimeout(() => void refreshModels(), POLL_MS);
  }
}

const RATES = "sam2fast-rates"; // in localStorage, by model

/** Keeps the last measured frame rate of tracking; that of a finished track also for the next visit. */
export function watchRate(): () => void {
  return useStore.subscribe(({ tracking, limits }, before) => {
    if ("done" in tracking && tracking.framesPerSecond !== null) {
      useModels.setState({ framesPerSecond: tracking.framesPerSecond });
    } else if ("done" in before.tracking && before.tracking.framesPerSecond !== null && limits) {
      const rates = { ...readRates(), [limits.model]: before.tracking.framesPerSecond };
      store(RATES, JSON.stringify(rates));
    }
  });
}

/** Frames per second of a model's last track in this browser; null before the first. */
export function lastRate(model: string | undefined): number | null {
  return readRates()[model ?? ""] ?? null;
}

function readRates(): Record<string, number> {
  try {
    return JSON.parse(readStored(RATES) ?? "{}") as Record<string, number>;
  } catch {
    return {}; // something else is stored there
  }
}

export async function download(name: string): Promise<void> {
  useModels.setState({ problem: "" });
  try {
    await downloadModel(name);
  } catch (error) {
    useModels.setState({ problem: asApiError(error).message });
  }
  await refreshModels();
}

/** Replaces the model and opens the video again with the work on it. */
export async function use(name: string): Promise<void> {
  useModels.setState({ loading: name, problem: "" });
  announce(`Loading ${name}.`);
  try {
    await changeModel(name);
    setState({ limits: await getLimits(), dialog: null });
    useModels.setState({ framesPerSecond: null });
    await restart();
    if (getState().phase === "ready")
      notify("info", `The model is ${name} now. Masks stay as they are until you click or track again.`);
  } catch (error) {
    useModels.setState({ problem: asApiError(error).message });
  }
  useModels.setState({ loading: null });
  await refreshModels();
}

/** Opens the video again with another tracking strategy. */
export async function chooseStrategy(strategy: string | null): Promise<void> {
  setState({ strategy });
  await restart();
  announce("The video is open again with another strategy. Track again to see the difference.");
}
