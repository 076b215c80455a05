import { useEffect, useState } from "react";
import { CoachMarks } from "../coach/CoachMarks";
import { DownloadDialog } from "../download/DownloadDialog";
import { DropTarget } from "../library/DropTarget";
import { VideosDialog } from "../library/VideosDialog";
import { ModelsDialog } from "../models/ModelsDialog";
import { ObjectPanel } from "../objects/ObjectPanel";
import { Stage } from "../player/Stage";
import { Transport } from "../player/Transport";
import { Candidates } from "../precision/Candidates";
import { watchWork } from "../project/autosave";
import { begin, watchSession } from "../project/session";
import { useStore } from "../state/store";
import { Timeline } from "../timeline/Timeline";
import { ConfirmDialog } from "../ui/ConfirmDialog";
import { Actions } from "./Actions";
import { Banners } from "./Banners";
import { HelpDialog } from "./HelpDialog";
import { LookPanel } from "./LookPanel";
import { SHEETS, SheetTabs, type Sheet } from "./SheetTabs";
import { useShortcuts } from "./shortcuts";
import { TopBar } from "./TopBar";

export function App() {
  const dialog = useStore((state) => state.dialog);
  const [sheet, setSheet] = useState<Sheet>(SHEETS[0]);
  useShortcuts();
  useEffect(() => {
    watchSession();
    watchWork();
    void begin();
  }, []);

  return (
    <DropTarget>
      {/* Small screens show one of the sheets, others all. */}
      <div className="app" data-sheet={sheet}>
        <TopBar />
        <main>
          <Stage />
          <Transport />
          <Candidates />
        </main>
        <SheetTabs sheet={sheet} onChange={setSheet} />
        <Timeline />
        <aside aria-label="Objects and effects">
          <ObjectPanel />
          <LookPanel />
          <Actions />
        </aside>
      </div>
      <CoachMarks />
      <Banners />
      {dialog === "videos" && <VideosDialog />}
      {dialog === "models" && <ModelsDialog />}
      {dialog === "help" && <HelpDialog />}
      {dialog === "download" && <DownloadDialog />}
      {typeof dialog === "object" && dialog && <ConfirmDialog {...dialog} />}
    </DropTarget>
  );
}
