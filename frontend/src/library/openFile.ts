import { asApiError } from "../api/errors";
import { isPhotosProject, openPhotosProject } from "../photos/project";
import { openDataFile } from "../project/files";
import { notify, setState } from "../state/store";

/** Opens a project, of a video or of photographs, or adds masks as new objects. */
export async function openFile(file: File): Promise<void> {
  const text = /\.json$/i.test(file.name) ? await file.text() : "";
  if (!isPhotosProject(text)) return openDataFile(file);
  setState({ dialog: null });
  try {
    await openPhotosProject(text);
  } catch (error) {
    notify("error", `“${file.name}”: ${asApiError(error).message}`);
  }
}
