/** The files that were dropped, also those in folders. Called in the event: the browser forgets them after it. */
export async function droppedFiles(transfer: DataTransfer): Promise<File[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry());
  const files = [...transfer.files];
  if (!entries.some((entry) => entry?.isDirectory)) return files;
  return (await Promise.all(entries.map((entry) => (entry ? filesIn(entry) : Promise.resolve([]))))).flat();
}

async function filesIn(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile) {
    return [await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject))];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) break; // browsers hand out a hundred at a time
    found.push(...some);
  }
  const visible = found.filter(({ name }) => !name.startsWith("."));
  return (await Promise.all(visible.map(filesIn))).flat();
}

const PNG_SIGNATURE = 0x89504e47;
const COLOUR_TYPE = 25; // position in the file
const MASK_TYPES = [0, 3]; // grey and palette

/** Whether a PNG file may be a label image rather than a photograph, by its colours. */
export async function mayBeLabels(file: File): Promise<boolean> {
  const head = new DataView(await file.slice(0, COLOUR_TYPE + 1).arrayBuffer());
  if (head.byteLength <= COLOUR_TYPE || head.getUint32(0) !== PNG_SIGNATURE) return false;
  return MASK_TYPES.includes(head.getUint8(COLOUR_TYPE));
}
