// What is being written for an endpoint: its fields, their values, and the files that were chosen.

import { useCallback, useEffect, useState } from "./vendor/preact.js";
import { draftOf, keepDraft } from "./drafts.js";
import { defaultsOf, fieldsOf } from "./schema.js";

/**
 * @typedef {import("./schema.js").Field} Field
 * @typedef {import("./file_pick.js").FilePick} FilePick
 */

/** The state of a request, from its first letter to its submit. */
export function useRequest(/** @type {string} */ endpoint) {
  const [fields, setFields] = useState(/** @type {Field[]} */ ([]));
  const [values, setValues] = useState(/** @type {Record<string, any>} */ ({}));
  const [picks, setPicks] = useState(/** @type {Record<string, FilePick | undefined>} */ ({}));
  const [unread, setUnread] = useState("");

  const read = () => {
    setUnread("");
    fieldsOf(endpoint).then(
      (found) => {
        setFields(found);
        setValues({ ...defaultsOf(found), ...draftOf(endpoint) });
      },
      (error) => setUnread(error.message),
    );
  };
  useEffect(read, [endpoint]);

  /** Take these values in place of those that were there. */
  const change = useCallback(
    (/** @type {Record<string, any>} */ next) => {
      setValues(next);
      keepDraft(endpoint, next);
    },
    [endpoint],
  );
  /** Take a file for a field, or none; a URL that was there goes. */
  const pick = useCallback((/** @type {string} */ name, /** @type {FilePick | undefined} */ chosen) => {
    setPicks((before) => {
      if (before[name]?.shown !== chosen?.shown) before[name]?.release();
      return { ...before, [name]: chosen };
    });
    setValues((before) => ({ ...before, [name]: undefined }));
  }, []);
  /** Values as they were written as JSON: a file whose URL is no longer there is dropped. */
  const rewrite = (/** @type {Record<string, any>} */ next) => {
    for (const name of Object.keys(picks)) {
      if (picks[name] && next[name] !== values[name]) pick(name, undefined);
    }
    change(next);
  };
  /** Put the defaults back, but for what is required. */
  const reset = () => {
    const kept = fields.filter((field) => field.required).map(({ name }) => [name, values[name]]);
    change({ ...defaultsOf(fields), ...Object.fromEntries(kept) });
  };
  /**
   * Upload what was chosen and is not there yet; the values with the URLs.
   *
   * @param {{ width: number, height: number }} video
   * @param {(fraction: number) => void} onProgress
   */
  const withUrls = async (video, onProgress) => {
    const urls = {};
    for (const [name, chosen] of Object.entries(picks)) {
      if (chosen) urls[name] = await chosen.url(video, onProgress);
    }
    const found = { ...values, ...urls };
    change(found);
    return found;
  };
  return { fields, values, picks, unread, read, change, pick, rewrite, reset, withUrls };
}
