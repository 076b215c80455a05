/** Behind transparent parts of photographs, for users and for the model; as the server's GREY. */
export const GREY = "rgb(128, 128, 128)";
