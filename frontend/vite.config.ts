import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";
import { licences } from "./scripts/licences";
import { runtime } from "./scripts/runtime";

const SERVER = process.env["SAM2FAST_SERVER"] ?? "http://127.0.0.1:7263";
const ROUTES = ["/graphql", "/propagate_in_video", "/api", "/healthy", "/ready", "/gallery", "/posters", "/uploads"];

export default defineConfig({
  plugins: [react(), licences(), runtime()],
  // Scripts find each other from where they are, so that a file server may have the page in any folder.
  experimental: { renderBuiltUrl: (_, { hostType }) => (hostType === "js" ? { relative: true } : undefined) },
  worker: { format: "es" },
  build: {
    outDir: "../sam2fast/demo/server/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false, // other chunks are for pages without a server
    chunkSizeWarningLimit: 1000, // kB
    assetsInlineLimit: 0, // the server's content policy allows no data URLs
  },
  // `npm run dev` gets everything but the page from `sam2fast serve`.
  server: {
    proxy: Object.fromEntries(ROUTES.map((route) => [route, SERVER])),
    fs: { allow: [".", "../sam2fast/demo/media"] },
  },
  test: { include: ["tests/unit/**/*.test.ts"], environment: "node" },
});
