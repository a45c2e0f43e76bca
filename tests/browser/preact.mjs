// What the page takes from Preact and htm: `make page-vendor` puts it into one file.
import { h } from "preact";
import htm from "htm";

export { Fragment, render } from "preact";
export { useCallback, useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
export const html = htm.bind(h);
