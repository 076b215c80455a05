import type { SelectionRules } from "./selection";

export const GRAPHS = ["encoder", "decoder", "memory_attention", "memory_encoder"] as const;
export type GraphName = (typeof GRAPHS)[number];

/** Rules of the tracker. */
export type Strategy = "sam2" | "together";

/** What the tracker reads of an exported model's `model.json`; `docs/export.md` describes it. */
export interface Manifest {
  readonly format: string;
  readonly files: Readonly<Record<string, { readonly size: number }>>;
  readonly image_size: number;
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly no_mem_embed: readonly number[];
  readonly no_obj_ptr: readonly number[];
  /** A 4x4 kernel row by row, then its bias. */
  readonly mask_downsample: readonly number[];
  readonly memory_rules: SelectionRules;
  readonly multimask_output_in_sam: boolean;
  readonly multimask_output_for_tracking: boolean;
  readonly multimask_min_pt_num: number;
  readonly multimask_max_pt_num: number;
  readonly use_multimask_token_for_obj_ptr: boolean;
  /** Delta and threshold. */
  readonly stability: readonly [number, number] | null;
  readonly binarize_mask_from_pts_for_mem_enc: boolean;
  readonly fill_hole_area: number;
  readonly clear_non_cond_mem_around_input: boolean;
  readonly add_all_frames_to_correct_as_cond: boolean;
  /** Of sessions that name none. */
  readonly strategy: Strategy;
}

export const FORMAT = "sam2fast-onnx-1";
