// What the type checker is told of preact.js; browsers do not read it.

type Node = unknown;
type Update<T> = (next: T | ((before: T) => T)) => void;

export function html(strings: TemplateStringsArray, ...values: any[]): Node;
export function render(node: Node, parent: Element): void;
export const Fragment: unknown;
export function useState(initial: null | undefined): [any, Update<any>];
export function useState(initial: never[]): [any[], Update<any[]>];
export function useState<T = any>(initial: T | (() => T)): [T, Update<T>];
export function useReducer<S, A>(reduce: (state: S, action: A) => S, initial: S): [S, (action: A) => void];
export function useEffect(effect: () => void | (() => void), inputs?: unknown[]): void;
export function useMemo<T>(make: () => T, inputs: unknown[]): T;
export function useCallback<F extends (...given: any[]) => unknown>(callback: F, inputs: unknown[]): F;
export function useRef(initial: null): { current: any };
export function useRef<T>(initial: T): { current: T };
