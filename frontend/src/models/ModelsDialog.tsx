import { useEffect } from "react";
import type { Models, OfferedModel } from "../api/models";
import { useStore } from "../state/store";
import { Dialog } from "../ui/Dialog";
import { Icon } from "../ui/Icon";
import { chooseStrategy, download, refreshModels, use, useModels } from "./models";

/** Selects the model and the tracking strategy. */
export function ModelsDialog() {
  const { models, problem } = useModels();
  const hasServer = useStore((state) => !state.limits?.lacks?.includes("models"));
  useEffect(() => void refreshModels(), []);

  return (
    <Dialog title="Model">
      {models ? (
        <>
          <ul className="models">
            {models.models.map((model) => (
              <ModelRow key={model.name} model={model} models={models} />
            ))}
          </ul>
          {problem && (
            <p className="problem" role="alert">
              {problem}
            </p>
          )}
          <p className="hint">
            {hasServer
              ? describeChange(models)
              : "This page has one model and no server. Other models need sam2fast serve."}
          </p>
          <StrategyChoice models={models} />
        </>
      ) : (
        <p className="hint">This server has one model only.</p>
      )}
    </Dialog>
  );
}

function ModelRow({ model, models }: { model: OfferedModel; models: Models }) {
  const loading = useModels((state) => state.loading);
  const { name, title, megabytes, about, state, share, problem } = model;
  const isCurrent = name === models.current;

  return (
    <li className={isCurrent ? "current" : ""}>
      <div>
        <h3>
          {title}
          {megabytes > 0 && <small>{megabytes} MB</small>}
        </h3>
        <p>{about}</p>
        {problem && <p className="problem">{problem}</p>}
        {state === "downloading" && <progress max={1} value={share} aria-label={`Download of ${title}`} />}
      </div>
      {isCurrent ? (
        <span className="in-use">
          <Icon name="check" />
          In use
        </span>
      ) : state === "downloading" ? (
        <span className="in-use">{Math.floor(100 * share)} %</span>
      ) : state === "ready" ? (
        <button type="button" disabled={!models.mayChange || loading !== null} onClick={() => void use(name)}>
          {loading === name ? <span className="spinner" /> : null}
          Use<span className="visually-hidden"> {title}</span>
        </button>
      ) : (
        <button
          type="button"
          disabled={!models.mayChange || models.offline !== null}
          onClick={() => void download(name)}
        >
          <Icon name="cloud" />
          {state === "failed" ? "Try again" : "Download"}
          <span className="visually-hidden"> {title}</span>
        </button>
      )}
    </li>
  );
}

function describeChange({ mayChange, offline, device }: Models): string {
  if (!mayChange) return "Other machines can reach this server, so its model is fixed when it starts.";
  const change = "Your clicks and masks stay. The model changes on all pages of this server, and tracking stops there.";
  const speed = device === "cpu" ? " This server uses the CPU: larger models take seconds per frame." : "";
  return change + speed + (offline ? ` ${offline}` : "");
}

function StrategyChoice({ models }: { models: Models }) {
  const strategy = useStore((state) => state.strategy) ?? models.strategy;
  return (
    <label className="strategy">
      <span>Tracking strategy</span>
      <select
        value={strategy}
        onChange={({ target }) => void chooseStrategy(target.value === models.strategy ? null : target.value)}
      >
        {models.strategies.map(({ name, about }) => (
          <option key={name} value={name}>
            {about}
          </option>
        ))}
      </select>
      <small className="hint">For this page only. No strategy is best for all videos. Track again to compare.</small>
    </label>
  );
}
