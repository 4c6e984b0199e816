export * from "ai";
export { WorkflowChatTransport } from "@workflow/ai";
