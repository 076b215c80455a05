import { useEffect, useState } from "react";
import type { Loading } from "../local/calls";
import { onLoading } from "../local/loading";
import { setState, useStore } from "../state/store";
import { Icon } from "../ui/Icon";
import { refreshModels, use, useModels, watchRate } from "./models";

/** Names model, device and speed; opens the dialog of models. */
export function ModelBadge() {
  const model = useStore((state) => state.limits?.model);
  const isFixed = useStore((state) => state.limits?.lacks?.includes("models"));
  const { models, framesPerSecond } = useModels();
  const session = useStore((state) => state.session?.id);
  const [engine, setEngine] = useState<Loading["engine"]>(null); // of pages without a server
  useEffect(watchRate, []);
  useEffect(() => onLoading((loading) => setEngine(loading.engine)), []);
  useEffect(() => void refreshModels(), [session]); // another page may have changed the model

  if (!model) return null;
  const failure = engine?.problem ? `. WebGPU has failed: ${engine.problem}` : "";
  const device = engine?.name ?? models?.device.toUpperCase();
  return (
    <button
      type="button"
      className="model-badge"
      title={`Model, device and speed: change the ${isFixed ? "strategy" : "model"}${failure}`}
      onClick={() => setState({ dialog: "models" })}
    >
      <Icon name="model" />
      <span>{models?.current ?? model}</span>
      {device && <span className="more">{device}</span>}
      {framesPerSecond !== null && <span className="more">{framesPerSecond.toFixed(1)} frames/s</span>}
    </button>
  );
}

/** Names mini where nano runs. The page changes the model if it may. */
export function BetterModel() {
  const model = useStore((state) => state.limits?.model);
  const models = useModels((state) => state.models);
  if ((models?.current ?? model) !== "nano") return null;
  return (
    <span className="better-model">
      <span>Better masks: </span>
      {models?.mayChange ? (
        <button
          type="button"
          className="quiet-button"
          onClick={() => {
            setState({ dialog: "models" }); // shows that it is loaded, or what went wrong
            void use("mini");
          }}
        >
          use mini
        </button>
      ) : (
        <code>--model mini</code>
      )}
    </span>
  );
}
