// Pan and zoom: a view is a zoom and an offset, screen = world * k + offset. Pure.
//
// Invariant: zooming keeps the point under the pointer where it is.

export interface View {
  k: number;
  x: number;
  y: number;
}
export const ZOOM_MAX = 4;

export function fit(w: number, h: number, worldW: number, worldH: number, pad = 16): View {
  const k = Math.min(1.6, Math.max(0.001, Math.min((w - 2 * pad) / Math.max(1, worldW), (h - 2 * pad) / Math.max(1, worldH))));
  return { k, x: (w - worldW * k) / 2, y: (h - worldH * k) / 2 };
}
export function zoomAt(v: View, factor: number, px: number, py: number, min: number): View {
  const k = Math.min(ZOOM_MAX, Math.max(min, v.k * factor));
  const f = k / v.k;
  return { k, x: px - (px - v.x) * f, y: py - (py - v.y) * f };
}
/** Keeps a part of the world in sight. */
export function clamp(v: View, w: number, h: number, worldW: number, worldH: number): View {
  const keep = 80;
  return {
    k: v.k,
    x: Math.min(w - keep, Math.max(keep - worldW * v.k, v.x)),
    y: Math.min(h - keep, Math.max(keep - worldH * v.k, v.y)),
  };
}
/** A view that shows this part of the world with air around it. */
export function show(w: number, h: number, b: { x: number; y: number; w: number; h: number }): View {
  const k = Math.min(1.2, (w * 0.7) / Math.max(1, b.w), (h * 0.7) / Math.max(1, b.h));
  return { k, x: w / 2 - (b.x + b.w / 2) * k, y: h / 2 - (b.y + b.h / 2) * k };
}
/** Distance from a point to a segment. */
export function distance(px: number, py: number, x1: number, y1: number, x2: number, y2: number): number {
  const dx = x2 - x1;
  const dy = y2 - y1;
  const len = dx * dx + dy * dy;
  const t = len === 0 ? 0 : Math.max(0, Math.min(1, ((px - x1) * dx + (py - y1) * dy) / len));
  return Math.hypot(px - x1 - t * dx, py - y1 - t * dy);
}
