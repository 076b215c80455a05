import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { Demo, launch } from "./demo";
import { serve, type Server } from "./serve";

let browser: Browser;
let server: Server;
let demo: Demo;

beforeAll(async () => {
  browser = await launch();
  server = await serve(inject("data"), "--port", "0", "--max-sessions", "1");
  demo = await Demo.open(browser, server.address);
  await demo.ready();
});

afterAll(async () => {
  await browser.close();
  await server.stop();
});

test("a full server refuses another session", async () => {
  const other = await Demo.open(browser, server.address);
  const message = other.page.locator(".stage-message");
  await message.filter({ hasText: /session/ }).waitFor();
  await other.shot("busy");
  await other.close();
  await demo.click(0.26, 0.62); // the first session still works
  await demo.said(/the mask covers/);
});

test("a lost server is reported; after its return a new session goes on by itself with the same masks", async () => {
  const { share } = await demo.difference();
  const port = new URL(server.address).port;
  await server.stop("SIGKILL");
  const place = await demo.at(0.3, 0.7);
  await demo.page.mouse.click(place.x, place.y);
  await demo.page.getByRole("alert").filter({ hasText: "The server does not answer" }).waitFor();
  await demo.shot("lost");
  expect(await demo.page.locator(".point").count()).toBe(2); // the click is pending

  server = await serve(inject("data"), "--port", port, "--max-sessions", "1");
  await demo.page.locator(".banner", { hasText: "has been resumed with your work" }).waitFor();
  await demo.said(/the mask covers/); // of the pending click
  await demo.settled();
  await demo.shot("resumed");
  expect(await demo.page.locator(".point").count()).toBe(2);
  expect((await demo.difference()).share).toBeGreaterThan(share / 4);
  expect(demo.problems).toEqual([]);
});
