import { MAX_FEATHER, type Edges } from "../media/edges";
import { setState, useStore } from "../state/store";

/**
 * Selects the outlines of cut-outs and mattes.
 *
 * @param drawn the file that the page draws, which has no matte
 */
export function EdgesChoice({ drawn }: { drawn: string }) {
  const edges = useStore((state) => state.edges);
  const hasMatte = useStore((state) => !state.limits?.lacks?.includes("matte"));
  return (
    <>
      <label className="file-choice">
        Edges
        <select
          value={edges.kind}
          onChange={({ target }) => setState({ edges: { ...edges, kind: target.value as Edges["kind"] } })}
        >
          <option value="hard">Hard</option>
          <option value="feather">Feathered</option>
          {hasMatte && <option value="matte">Along hair and leaves</option>}
        </select>
      </label>
      {edges.kind === "matte" && <p className="hint">“{drawn}” keeps hard edges.</p>}
      {edges.kind === "feather" && (
        <label className="file-choice">
          Feather
          <input
            type="number"
            min={1}
            max={MAX_FEATHER}
            value={edges.feather}
            onChange={({ target }) => {
              const feather = Math.min(MAX_FEATHER, Math.max(1, Math.round(target.valueAsNumber) || 1));
              setState({ edges: { ...edges, feather } });
            }}
          />
          pixels to each side
        </label>
      )}
    </>
  );
}
