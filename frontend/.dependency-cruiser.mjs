// The folders of src, from the top: a folder imports only from lines below its own.
const LINES = [
  ["app"],
  ["coach", "download", "library", "models", "objects", "timeline"],
  ["photos"],
  ["player"],
  ["precision"],
  ["project", "ui"],
  ["local", "state"],
  ["api", "effects"],
  ["scene"],
  ["masks", "media"],
];

const anyOf = (folders) => `^src/(${folders.join("|")})/`;

const layers = LINES.flatMap((line, index) =>
  line.map((folder) => ({
    name: `${folder}-imports-downwards`,
    severity: "error",
    from: { path: anyOf([folder]) },
    to: { path: "^src/", pathNot: anyOf([folder, ...LINES.slice(index + 1).flat()]) },
  })),
);

export default {
  forbidden: [
    ...layers,
    { name: "folder-has-a-line", severity: "error", from: { path: "^src/.+/", pathNot: anyOf(LINES.flat()) }, to: {} },
    { name: "no-circle", severity: "error", from: {}, to: { circular: true } },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsConfig: { fileName: "tsconfig.json" },
    tsPreCompilationDeps: true, // imports of types, too
  },
};
