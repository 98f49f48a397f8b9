export interface Item {
  name: string;
  cents: number;
  count?: number;
}

/** What the items cost together; an item without a count is there once. */
export function total(items: readonly Item[]): number {
  return items.reduce((sum, { cents, count = 1 }) => sum + cents * count, 0);
}

/** Whether somebody has sent us items. */
export function areItems(body: unknown): body is Item[] {
  return Array.isArray(body) && body.every((item) => typeof item?.name === "string" && Number.isInteger(item.cents));
}
