import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";
import { licences } from "./scripts/licences";

const SERVER = process.env["SAM2FAST_SERVER"] ?? "http://127.0.0.1:7263";
const ROUTES = ["/graphql", "/propagate_in_video", "/api", "/healthy", "/ready", "/gallery", "/posters", "/uploads"];

export default defineConfig({
  plugins: [react(), licences()],
  build: {
    outDir: "../server/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false }, // there is only one chunk
    chunkSizeWarningLimit: 1000, // kB
    assetsInlineLimit: 0, // the server's content policy allows no data URLs
  },
  // `npm run dev` gets everything but the page from `sam2fast serve`.
  server: { proxy: Object.fromEntries(ROUTES.map((route) => [route, SERVER])) },
  test: { include: ["tests/unit/**/*.test.ts"], environment: "node" },
});
