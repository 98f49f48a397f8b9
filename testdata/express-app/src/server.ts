// Adds up a basket.
//   POST /total [{"name":"tea","cents":350,"count":2}]  -> {"total":700}
//   GET  /health                                        -> {"user":1000,"production":true}
//   GET  /                                              -> public/index.html
import path from "node:path";
import express, { type Request, type Response } from "express";
import { areItems, total } from "./prices";

const app = express();
app.disable("x-powered-by");
app.use(express.json());
app.use(express.static(path.join(__dirname, "..", "public")));

app.get("/health", (_request: Request, response: Response) => {
  response.json({ user: process.getuid?.(), production: process.env["NODE_ENV"] === "production" });
});

app.post("/total", (request: Request, response: Response) => {
  if (!areItems(request.body)) {
    response.status(400).json({ error: "items are [{name, cents, count?}]" });
    return;
  }
  response.json({ total: total(request.body) });
});

const port = Number(process.env["PORT"] ?? 3000);
const server = app.listen(port, "0.0.0.0");
process.on("SIGTERM", () => server.close(() => process.exit(0)));
