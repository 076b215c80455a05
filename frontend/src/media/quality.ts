import { QUALITY_MEDIUM, QUALITY_VERY_HIGH } from "mediabunny";

/** Of exported videos; `sam2fast/demo/server/export_data.py` has those of the server's encoders. */
export const QUALITIES = { high: QUALITY_VERY_HIGH, smaller: QUALITY_MEDIUM };
export type FileQuality = keyof typeof QUALITIES;
