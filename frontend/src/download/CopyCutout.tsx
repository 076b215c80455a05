import { useState } from "react";
import { asApiError } from "../api/errors";
import { announce } from "../state/store";

/** Copies the cut-out of a photograph to the clipboard, where the browser allows it. */
export function CopyCutout({ make }: { make: () => Promise<Blob> }) {
  const [said, setSaid] = useState("");
  const isAllowed = isSecureContext && typeof ClipboardItem !== "undefined";
  const say = (text: string) => {
    setSaid(text);
    announce(text);
  };
  const copy = async () => {
    setSaid("Copying …");
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": make() })]);
      say("The cut-out is in the clipboard.");
    } catch (error) {
      say(`Not copied: ${asApiError(error).message}`);
    }
  };
  return (
    <p className="file-choice">
      <button type="button" disabled={!isAllowed} aria-describedby="copied" onClick={() => void copy()}>
        Copy cut-out
      </button>
      <span id="copied" className="hint">
        {isAllowed ? said : "Browsers copy images on HTTPS and localhost only."}
      </span>
    </p>
  );
}
