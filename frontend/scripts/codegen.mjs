// Writes src/api/generated.ts from schema.graphql and src/api/operations.graphql; with --check it only compares.
import { readFile, writeFile } from "node:fs/promises";
import { codegen } from "@graphql-codegen/core";
import * as typedDocumentNode from "@graphql-codegen/typed-document-node";
import * as typescript from "@graphql-codegen/typescript";
import * as typescriptOperations from "@graphql-codegen/typescript-operations";
import { buildSchema, parse } from "graphql";

const ROOT = new URL("../", import.meta.url);
const OUT = new URL("src/api/generated.ts", ROOT);

export async function generate() {
  const sdl = await readFile(new URL("schema.graphql", ROOT), "utf8");
  const operations = await readFile(new URL("src/api/operations.graphql", ROOT), "utf8");
  return codegen({
    filename: "generated.ts",
    schema: parse(sdl),
    schemaAst: buildSchema(sdl),
    documents: [{ location: "operations.graphql", document: parse(operations) }],
    config: { useTypeImports: true, enumsAsTypes: true, scalars: { Upload: "File" }, skipTypename: true },
    plugins: [{ typescript: {} }, { typescriptOperations: {} }, { typedDocumentNode: {} }],
    pluginMap: { typescript, typescriptOperations, typedDocumentNode },
  });
}

const text = "// Written by `npm run codegen`.\n" + (await generate());
if (process.argv.includes("--check")) {
  if ((await readFile(OUT, "utf8")) !== text) {
    console.error("src/api/generated.ts does not belong to the schema and the operations: run `npm run codegen`");
    process.exit(1);
  }
} else {
  await writeFile(OUT, text);
}
