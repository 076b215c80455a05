import { createRoot } from "react-dom/client";
import { App } from "./app/App";
import "./styles/index.css";
import { applyStoredTheme } from "./ui/theme";

applyStoredTheme();
createRoot(document.getElementById("root")!).render(<App />);
