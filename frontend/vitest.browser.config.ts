import { defineConfig } from "vitest/config";

/** Tests in Chromium against the real server; CHROMIUM and SAM2FAST_PYTHON say where they are. */
export default defineConfig({
  test: {
    include: ["tests/browser/**/*.test.ts"],
    environment: "node",
    globalSetup: "tests/browser/setup.ts",
    fileParallelism: false,
    testTimeout: 180_000,
    hookTimeout: 180_000,
  },
});
