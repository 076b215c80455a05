import { createRoot } from "react-dom/client";
import { App } from "./app/App";
import { startLocalServer } from "./local/loading";
import "./styles/index.css";
import { applyStoredTheme } from "./ui/theme";

startLocalServer();
applyStoredTheme();
createRoot(document.getElementById("root")!).render(<App />);
