const KEY = "sam2fast-coach"; // in localStorage

export function wasCoached(): boolean {
  try {
    return localStorage.getItem(KEY) !== null;
  } catch {
    return true; // what cannot be remembered would come at every visit
  }
}

export function rememberCoach(): void {
  try {
    localStorage.setItem(KEY, "seen");
  } catch {
    // As above.
  }
}
