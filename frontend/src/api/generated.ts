// Written by `npm run codegen`.
import type { TypedDocumentNode as DocumentNode } from '@graphql-typed-document-node/core';
export type Maybe<T> = T | null;
export type InputMaybe<T> = Maybe<T>;
export type Exact<T extends { [key: string]: unknown }> = { [K in keyof T]: T[K] };
export type MakeOptional<T, K extends keyof T> = Omit<T, K> & { [SubKey in K]?: Maybe<T[SubKey]> };
export type MakeMaybe<T, K extends keyof T> = Omit<T, K> & { [SubKey in K]: Maybe<T[SubKey]> };
export type MakeEmpty<T extends { [key: string]: unknown }, K extends keyof T> = { [_ in K]?: never };
export type Incremental<T> = T | { [P in keyof T]?: P extends ' $fragmentName' | '__typename' ? T[P] : never };
/** All built-in and custom scalars, mapped to their actual values */
export type Scalars = {
  ID: { input: string; output: string; }
  String: { input: string; output: string; }
  Boolean: { input: boolean; output: boolean; }
  Int: { input: number; output: number; }
  Float: { input: number; output: number; }
  Upload: { input: File; output: File; }
};

export type Node = {
  id: Scalars['ID']['output'];
};

export type PageInfo = {
  hasNextPage: Scalars['Boolean']['output'];
  hasPreviousPage: Scalars['Boolean']['output'];
  startCursor?: Maybe<Scalars['String']['output']>;
  endCursor?: Maybe<Scalars['String']['output']>;
};

export type Video = Node & {
  id: Scalars['ID']['output'];
  path: Scalars['String']['output'];
  posterPath?: Maybe<Scalars['String']['output']>;
  width: Scalars['Int']['output'];
  height: Scalars['Int']['output'];
  url: Scalars['String']['output'];
  posterUrl: Scalars['String']['output'];
};

export type VideoEdge = {
  cursor: Scalars['String']['output'];
  node: Video;
};

export type VideoConnection = {
  pageInfo: PageInfo;
  edges: Array<VideoEdge>;
};

export type RleMask = {
  size: Array<Scalars['Int']['output']>;
  counts: Scalars['String']['output'];
  order: Scalars['String']['output'];
};

export type RleMaskForObject = {
  objectId: Scalars['Int']['output'];
  rleMask: RleMask;
};

export type RleMaskListOnFrame = {
  frameIndex: Scalars['Int']['output'];
  rleMaskList: Array<RleMaskForObject>;
};

export type StartSession = {
  sessionId: Scalars['String']['output'];
};

export type CloseSession = {
  success: Scalars['Boolean']['output'];
};

export type ClearPointsInVideo = {
  success: Scalars['Boolean']['output'];
};

export type CancelPropagateInVideo = {
  success: Scalars['Boolean']['output'];
};

export type StartSessionInput = {
  path: Scalars['String']['input'];
};

export type CloseSessionInput = {
  sessionId: Scalars['String']['input'];
};

export type AddPointsInput = {
  sessionId: Scalars['String']['input'];
  frameIndex: Scalars['Int']['input'];
  clearOldPoints: Scalars['Boolean']['input'];
  objectId: Scalars['Int']['input'];
  labels: Array<Scalars['Int']['input']>;
  points: Array<Array<Scalars['Float']['input']>>;
};

export type ClearPointsInFrameInput = {
  sessionId: Scalars['String']['input'];
  frameIndex: Scalars['Int']['input'];
  objectId: Scalars['Int']['input'];
};

export type ClearPointsInVideoInput = {
  sessionId: Scalars['String']['input'];
};

export type RemoveObjectInput = {
  sessionId: Scalars['String']['input'];
  objectId: Scalars['Int']['input'];
};

export type CancelPropagateInVideoInput = {
  sessionId: Scalars['String']['input'];
};

export type Query = {
  defaultVideo: Video;
  videos: VideoConnection;
};


export type QueryVideosArgs = {
  before?: InputMaybe<Scalars['String']['input']>;
  after?: InputMaybe<Scalars['String']['input']>;
  first?: InputMaybe<Scalars['Int']['input']>;
  last?: InputMaybe<Scalars['Int']['input']>;
};

export type Mutation = {
  uploadVideo: Video;
  startSession: StartSession;
  closeSession: CloseSession;
  addPoints: RleMaskListOnFrame;
  removeObject: Array<RleMaskListOnFrame>;
  clearPointsInFrame: RleMaskListOnFrame;
  clearPointsInVideo: ClearPointsInVideo;
  cancelPropagateInVideo: CancelPropagateInVideo;
};


export type MutationUploadVideoArgs = {
  file: Scalars['Upload']['input'];
  startTimeSec?: InputMaybe<Scalars['Float']['input']>;
  durationTimeSec?: InputMaybe<Scalars['Float']['input']>;
};


export type MutationStartSessionArgs = {
  input: StartSessionInput;
};


export type MutationCloseSessionArgs = {
  input: CloseSessionInput;
};


export type MutationAddPointsArgs = {
  input: AddPointsInput;
};


export type MutationRemoveObjectArgs = {
  input: RemoveObjectInput;
};


export type MutationClearPointsInFrameArgs = {
  input: ClearPointsInFrameInput;
};


export type MutationClearPointsInVideoArgs = {
  input: ClearPointsInVideoInput;
};


export type MutationCancelPropagateInVideoArgs = {
  input: CancelPropagateInVideoInput;
};

export type VideoPartsFragment = { path: string, posterPath?: string | null, width: number, height: number, url: string, posterUrl: string };

export type FrameMasksFragment = { frameIndex: number, rleMaskList: Array<{ objectId: number, rleMask: { size: Array<number>, counts: string } }> };

export type GalleryQueryVariables = Exact<{ [key: string]: never; }>;


export type GalleryQuery = { videos: { edges: Array<{ node: { path: string, posterPath?: string | null, width: number, height: number, url: string, posterUrl: string } }> } };

export type DefaultVideoQueryVariables = Exact<{ [key: string]: never; }>;


export type DefaultVideoQuery = { defaultVideo: { path: string, posterPath?: string | null, width: number, height: number, url: string, posterUrl: string } };

export type UploadVideoMutationVariables = Exact<{
  file: Scalars['Upload']['input'];
  start?: InputMaybe<Scalars['Float']['input']>;
  seconds?: InputMaybe<Scalars['Float']['input']>;
}>;


export type UploadVideoMutation = { uploadVideo: { path: string, posterPath?: string | null, width: number, height: number, url: string, posterUrl: string } };

export type StartSessionMutationVariables = Exact<{
  input: StartSessionInput;
}>;


export type StartSessionMutation = { startSession: { sessionId: string } };

export type CloseSessionMutationVariables = Exact<{
  input: CloseSessionInput;
}>;


export type CloseSessionMutation = { closeSession: { success: boolean } };

export type AddPointsMutationVariables = Exact<{
  input: AddPointsInput;
}>;


export type AddPointsMutation = { addPoints: { frameIndex: number, rleMaskList: Array<{ objectId: number, rleMask: { size: Array<number>, counts: string } }> } };

export type RemoveObjectMutationVariables = Exact<{
  input: RemoveObjectInput;
}>;


export type RemoveObjectMutation = { removeObject: Array<{ frameIndex: number, rleMaskList: Array<{ objectId: number, rleMask: { size: Array<number>, counts: string } }> }> };

export type ClearPointsInFrameMutationVariables = Exact<{
  input: ClearPointsInFrameInput;
}>;


export type ClearPointsInFrameMutation = { clearPointsInFrame: { frameIndex: number, rleMaskList: Array<{ objectId: number, rleMask: { size: Array<number>, counts: string } }> } };

export type ClearPointsInVideoMutationVariables = Exact<{
  input: ClearPointsInVideoInput;
}>;


export type ClearPointsInVideoMutation = { clearPointsInVideo: { success: boolean } };

export type CancelPropagateInVideoMutationVariables = Exact<{
  input: CancelPropagateInVideoInput;
}>;


export type CancelPropagateInVideoMutation = { cancelPropagateInVideo: { success: boolean } };

export const VideoPartsFragmentDoc = {"kind":"Document","definitions":[{"kind":"FragmentDefinition","name":{"kind":"Name","value":"VideoParts"},"typeCondition":{"kind":"NamedType","name":{"kind":"Name","value":"Video"}},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"path"}},{"kind":"Field","name":{"kind":"Name","value":"posterPath"}},{"kind":"Field","name":{"kind":"Name","value":"width"}},{"kind":"Field","name":{"kind":"Name","value":"height"}},{"kind":"Field","name":{"kind":"Name","value":"url"}},{"kind":"Field","name":{"kind":"Name","value":"posterUrl"}}]}}]} as unknown as DocumentNode<VideoPartsFragment, unknown>;
export const FrameMasksFragmentDoc = {"kind":"Document","definitions":[{"kind":"FragmentDefinition","name":{"kind":"Name","value":"FrameMasks"},"typeCondition":{"kind":"NamedType","name":{"kind":"Name","value":"RLEMaskListOnFrame"}},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"frameIndex"}},{"kind":"Field","name":{"kind":"Name","value":"rleMaskList"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"objectId"}},{"kind":"Field","name":{"kind":"Name","value":"rleMask"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"size"}},{"kind":"Field","name":{"kind":"Name","value":"counts"}}]}}]}}]}}]} as unknown as DocumentNode<FrameMasksFragment, unknown>;
export const GalleryDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"query","name":{"kind":"Name","value":"Gallery"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"videos"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"edges"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"node"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"FragmentSpread","name":{"kind":"Name","value":"VideoParts"}}]}}]}}]}}]}},{"kind":"FragmentDefinition","name":{"kind":"Name","value":"VideoParts"},"typeCondition":{"kind":"NamedType","name":{"kind":"Name","value":"Video"}},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"path"}},{"kind":"Field","name":{"kind":"Name","value":"posterPath"}},{"kind":"Field","name":{"kind":"Name","value":"width"}},{"kind":"Field","name":{"kind":"Name","value":"height"}},{"kind":"Field","name":{"kind":"Name","value":"url"}},{"kind":"Field","name":{"kind":"Name","value":"posterUrl"}}]}}]} as unknown as DocumentNode<GalleryQuery, GalleryQueryVariables>;
export const DefaultVideoDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"query","name":{"kind":"Name","value":"DefaultVideo"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"defaultVideo"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"FragmentSpread","name":{"kind":"Name","value":"VideoParts"}}]}}]}},{"kind":"FragmentDefinition","name":{"kind":"Name","value":"VideoParts"},"typeCondition":{"kind":"NamedType","name":{"kind":"Name","value":"Video"}},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"path"}},{"kind":"Field","name":{"kind":"Name","value":"posterPath"}},{"kind":"Field","name":{"kind":"Name","value":"width"}},{"kind":"Field","name":{"kind":"Name","value":"height"}},{"kind":"Field","name":{"kind":"Name","value":"url"}},{"kind":"Field","name":{"kind":"Name","value":"posterUrl"}}]}}]} as unknown as DocumentNode<DefaultVideoQuery, DefaultVideoQueryVariables>;
export const UploadVideoDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"mutation","name":{"kind":"Name","value":"UploadVideo"},"variableDefinitions":[{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"file"}},"type":{"kind":"NonNullType","type":{"kind":"NamedType","name":{"kind":"Name","value":"Upload"}}}},{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"start"}},"type":{"kind":"NamedType","name":{"kind":"Name","value":"Float"}}},{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"seconds"}},"type":{"kind":"NamedType","name":{"kind":"Name","value":"Float"}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"uploadVideo"},"arguments":[{"kind":"Argument","name":{"kind":"Name","value":"file"},"value":{"kind":"Variable","name":{"kind":"Name","value":"file"}}},{"kind":"Argument","name":{"kind":"Name","value":"startTimeSec"},"value":{"kind":"Variable","name":{"kind":"Name","value":"start"}}},{"kind":"Argument","name":{"kind":"Name","value":"durationTimeSec"},"value":{"kind":"Variable","name":{"kind":"Name","value":"seconds"}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"FragmentSpread","name":{"kind":"Name","value":"VideoParts"}}]}}]}},{"kind":"FragmentDefinition","name":{"kind":"Name","value":"VideoParts"},"typeCondition":{"kind":"NamedType","name":{"kind":"Name","value":"Video"}},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"path"}},{"kind":"Field","name":{"kind":"Name","value":"posterPath"}},{"kind":"Field","name":{"kind":"Name","value":"width"}},{"kind":"Field","name":{"kind":"Name","value":"height"}},{"kind":"Field","name":{"kind":"Name","value":"url"}},{"kind":"Field","name":{"kind":"Name","value":"posterUrl"}}]}}]} as unknown as DocumentNode<UploadVideoMutation, UploadVideoMutationVariables>;
export const StartSessionDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"mutation","name":{"kind":"Name","value":"StartSession"},"variableDefinitions":[{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"input"}},"type":{"kind":"NonNullType","type":{"kind":"NamedType","name":{"kind":"Name","value":"StartSessionInput"}}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"startSession"},"arguments":[{"kind":"Argument","name":{"kind":"Name","value":"input"},"value":{"kind":"Variable","name":{"kind":"Name","value":"input"}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"sessionId"}}]}}]}}]} as unknown as DocumentNode<StartSessionMutation, StartSessionMutationVariables>;
export const CloseSessionDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"mutation","name":{"kind":"Name","value":"CloseSession"},"variableDefinitions":[{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"input"}},"type":{"kind":"NonNullType","type":{"kind":"NamedType","name":{"kind":"Name","value":"CloseSessionInput"}}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"closeSession"},"arguments":[{"kind":"Argument","name":{"kind":"Name","value":"input"},"value":{"kind":"Variable","name":{"kind":"Name","value":"input"}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"success"}}]}}]}}]} as unknown as DocumentNode<CloseSessionMutation, CloseSessionMutationVariables>;
export const AddPointsDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"mutation","name":{"kind":"Name","value":"AddPoints"},"variableDefinitions":[{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"input"}},"type":{"kind":"NonNullType","type":{"kind":"NamedType","name":{"kind":"Name","value":"AddPointsInput"}}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"addPoints"},"arguments":[{"kind":"Argument","name":{"kind":"Name","value":"input"},"value":{"kind":"Variable","name":{"kind":"Name","value":"input"}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"FragmentSpread","name":{"kind":"Name","value":"FrameMasks"}}]}}]}},{"kind":"FragmentDefinition","name":{"kind":"Name","value":"FrameMasks"},"typeCondition":{"kind":"NamedType","name":{"kind":"Name","value":"RLEMaskListOnFrame"}},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"frameIndex"}},{"kind":"Field","name":{"kind":"Name","value":"rleMaskList"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"objectId"}},{"kind":"Field","name":{"kind":"Name","value":"rleMask"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"size"}},{"kind":"Field","name":{"kind":"Name","value":"counts"}}]}}]}}]}}]} as unknown as DocumentNode<AddPointsMutation, AddPointsMutationVariables>;
export const RemoveObjectDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"mutation","name":{"kind":"Name","value":"RemoveObject"},"variableDefinitions":[{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"input"}},"type":{"kind":"NonNullType","type":{"kind":"NamedType","name":{"kind":"Name","value":"RemoveObjectInput"}}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"removeObject"},"arguments":[{"kind":"Argument","name":{"kind":"Name","value":"input"},"value":{"kind":"Variable","name":{"kind":"Name","value":"input"}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"FragmentSpread","name":{"kind":"Name","value":"FrameMasks"}}]}}]}},{"kind":"FragmentDefinition","name":{"kind":"Name","value":"FrameMasks"},"typeCondition":{"kind":"NamedType","name":{"kind":"Name","value":"RLEMaskListOnFrame"}},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"frameIndex"}},{"kind":"Field","name":{"kind":"Name","value":"rleMaskList"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"objectId"}},{"kind":"Field","name":{"kind":"Name","value":"rleMask"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"size"}},{"kind":"Field","name":{"kind":"Name","value":"counts"}}]}}]}}]}}]} as unknown as DocumentNode<RemoveObjectMutation, RemoveObjectMutationVariables>;
export const ClearPointsInFrameDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"mutation","name":{"kind":"Name","value":"ClearPointsInFrame"},"variableDefinitions":[{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"input"}},"type":{"kind":"NonNullType","type":{"kind":"NamedType","name":{"kind":"Name","value":"ClearPointsInFrameInput"}}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"clearPointsInFrame"},"arguments":[{"kind":"Argument","name":{"kind":"Name","value":"input"},"value":{"kind":"Variable","name":{"kind":"Name","value":"input"}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"FragmentSpread","name":{"kind":"Name","value":"FrameMasks"}}]}}]}},{"kind":"FragmentDefinition","name":{"kind":"Name","value":"FrameMasks"},"typeCondition":{"kind":"NamedType","name":{"kind":"Name","value":"RLEMaskListOnFrame"}},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"frameIndex"}},{"kind":"Field","name":{"kind":"Name","value":"rleMaskList"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"objectId"}},{"kind":"Field","name":{"kind":"Name","value":"rleMask"},"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"size"}},{"kind":"Field","name":{"kind":"Name","value":"counts"}}]}}]}}]}}]} as unknown as DocumentNode<ClearPointsInFrameMutation, ClearPointsInFrameMutationVariables>;
export const ClearPointsInVideoDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"mutation","name":{"kind":"Name","value":"ClearPointsInVideo"},"variableDefinitions":[{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"input"}},"type":{"kind":"NonNullType","type":{"kind":"NamedType","name":{"kind":"Name","value":"ClearPointsInVideoInput"}}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"clearPointsInVideo"},"arguments":[{"kind":"Argument","name":{"kind":"Name","value":"input"},"value":{"kind":"Variable","name":{"kind":"Name","value":"input"}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"success"}}]}}]}}]} as unknown as DocumentNode<ClearPointsInVideoMutation, ClearPointsInVideoMutationVariables>;
export const CancelPropagateInVideoDocument = {"kind":"Document","definitions":[{"kind":"OperationDefinition","operation":"mutation","name":{"kind":"Name","value":"CancelPropagateInVideo"},"variableDefinitions":[{"kind":"VariableDefinition","variable":{"kind":"Variable","name":{"kind":"Name","value":"input"}},"type":{"kind":"NonNullType","type":{"kind":"NamedType","name":{"kind":"Name","value":"CancelPropagateInVideoInput"}}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"cancelPropagateInVideo"},"arguments":[{"kind":"Argument","name":{"kind":"Name","value":"input"},"value":{"kind":"Variable","name":{"kind":"Name","value":"input"}}}],"selectionSet":{"kind":"SelectionSet","selections":[{"kind":"Field","name":{"kind":"Name","value":"success"}}]}}]}}]} as unknown as DocumentNode<CancelPropagateInVideoMutation, CancelPropagateInVideoMutationVariables>;