import { MAX_FEATHER, type Edges } from "../media/edges";
import { setState, useStore } from "../state/store";
import { NumberField } from "../ui/NumberField";

/** Selects the outlines of objects in files for editing. */
export function EdgesChoice() {
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
      {edges.kind === "feather" && (
        <NumberField
          name="Feather"
          value={edges.feather}
          min={1}
          max={MAX_FEATHER}
          unit="pixels to each side"
          onChange={(feather) => setState({ edges: { ...edges, feather } })}
        />
      )}
    </>
  );
}
