/** A number with its noun, such as “1 frame” and “2 frames”. */
export function counted(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
