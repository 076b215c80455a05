import { useEffect, useState } from "react";
import { CoachMarks } from "../coach/CoachMarks";
import { DownloadDialog } from "../download/DownloadDialog";
import { isPhoto } from "../api/video";
import { PhotoDownloadDialog } from "../download/PhotoDownloadDialog";
import { DropTarget } from "../library/DropTarget";
import { VideosDialog } from "../library/VideosDialog";
import { ModelsDialog } from "../models/ModelsDialog";
import { ClassesDialog } from "../objects/ClassesDialog";
import { ObjectPanel } from "../objects/ObjectPanel";
import { watchReplaced } from "../photos/classes";
import { EverythingStrip } from "../photos/EverythingStrip";
import { PhotoActions } from "../photos/PhotoActions";
import { PhotoStrip } from "../photos/PhotoStrip";
import { watchPhotos } from "../photos/list";
import { rememberPhotos } from "../photos/remembered";
import { Stage } from "../player/Stage";
import { Transport } from "../player/Transport";
import { Candidates } from "../precision/Candidates";
import { useEverything } from "../precision/everything";
import { watchWork } from "../project/autosave";
import { begin, watchSession } from "../project/session";
import { watchClasses } from "../state/classes";
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
    watchClasses();
    watchReplaced();
    watchWork();
    watchPhotos();
    void rememberPhotos().then(begin);
  }, []);
  // On small screens the candidates come into view, and then the objects that they become.
  useEffect(
    () =>
      useEverything.subscribe(({ candidates }, before) => {
        if ((candidates === null) !== (before.candidates === null)) setSheet(candidates ? "timeline" : "objects");
      }),
    [],
  );
  const isChoosing = useEverything((state) => state.candidates !== null);
  const isStill = useStore(({ clip }) => clip !== null && isPhoto(clip));

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
        <SheetTabs sheet={sheet} isPhoto={isStill} onChange={setSheet} />
        {isStill ? isChoosing ? <EverythingStrip /> : <PhotoStrip /> : <Timeline />}
        <aside aria-label="Objects and effects">
          <ObjectPanel />
          <LookPanel isPhoto={isStill} />
          {isStill ? <PhotoActions /> : <Actions />}
        </aside>
      </div>
      {!isStill && <CoachMarks />}
      <Banners />
      {dialog === "videos" && <VideosDialog />}
      {dialog === "models" && <ModelsDialog />}
      {dialog === "classes" && <ClassesDialog />}
      {dialog === "help" && <HelpDialog />}
      {dialog === "download" && (isStill ? <PhotoDownloadDialog /> : <DownloadDialog />)}
      {typeof dialog === "object" && dialog && <ConfirmDialog {...dialog} />}
    </DropTarget>
  );
}
