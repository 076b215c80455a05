import { Client, fetchExchange, type AnyVariables, type OperationResult, type TypedDocumentNode } from "@urql/core";
import { sendingError, serverError } from "./errors";
import { send } from "./transport";

// No cache: the answers change with every click.
const client = new Client({ url: "/graphql", fetch: send, exchanges: [fetchExchange], preferGetMethod: false });

/** @throws ApiError */
export async function query<Data, Variables extends AnyVariables>(
  document: TypedDocumentNode<Data, Variables>,
  variables: Variables,
): Promise<Data> {
  return read(await client.query(document, variables).toPromise());
}

/** @throws ApiError */
export async function mutate<Data, Variables extends AnyVariables>(
  document: TypedDocumentNode<Data, Variables>,
  variables: Variables,
): Promise<Data> {
  return read(await client.mutation(document, variables).toPromise());
}

function read<Data, Variables extends AnyVariables>({ data, error }: OperationResult<Data, Variables>): Data {
  const refusal = error?.graphQLErrors[0];
  if (refusal) throw serverError(refusal.message, refusal.extensions["code"]);
  if (error || data === undefined) throw sendingError(error?.networkError);
  return data;
}
