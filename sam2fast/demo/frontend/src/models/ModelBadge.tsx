import { useEffect } from "react";
import { setState, useStore } from "../state/store";
import { Icon } from "../ui/Icon";
import { refreshModels, useModels, watchRate } from "./models";

/** Names model, device and speed; opens the dialog of models. */
export function ModelBadge() {
  const model = useStore((state) => state.limits?.model);
  const isFixed = useStore((state) => state.limits?.lacks?.includes("models"));
  const { models, framesPerSecond } = useModels();
  const session = useStore((state) => state.session?.id);
  useEffect(watchRate, []);
  useEffect(() => void refreshModels(), [session]); // another page may have changed the model

  if (!model) return null;
  return (
    <button
      type="button"
      className="model-badge"
      disabled={isFixed}
      title={isFixed ? "Model and speed" : "Model, device and speed: change the model"}
      onClick={() => setState({ dialog: "models" })}
    >
      <Icon name="model" />
      <span>{models?.current ?? model}</span>
      {models && <span className="more">{models.device.toUpperCase()}</span>}
      {framesPerSecond !== null && <span className="more">{framesPerSecond.toFixed(1)} frames/s</span>}
    </button>
  );
}
