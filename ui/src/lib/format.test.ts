// Words for numbers, rates, delays and times.
import { describe, expect, it } from 'vitest';
import { ago, clock, confidence, count, delay, duration, interval, kind, rate, short, size, times } from './format';

describe('rate', () => {
  it.each([
    [0, '0 %'], [1e-7, '< 0.001 %'], [1e-5, '0.001 %'], [0.0001, '0.01 %'], [0.0031, '0.31 %'], [0.00996, '1.0 %'], [0.0103, '1.0 %'],
    [0.0999, '10 %'], [0.31, '31 %'], [0.9996, '100 %'], [1, '100 %'], [null, '–'], [NaN, '–'],
  ])('%s is %s', (r, text) => expect(rate(r)).toBe(text));
  it('never says 0 % of what is not zero', () => {
    for (let r = 1e-12; r < 1; r *= 1.7) expect(rate(r)).not.toBe('0 %');
  });
  it('gives an interval one unit', () => {
    expect(interval(0.0071, 0.0144)).toBe('0.71 to 1.4 %');
    expect(interval(1, 1)).toBe('100 %');
    expect(interval(1e-8, 0.01)).toBe('< 0.001 % to 1.0 %');
  });
});

describe('confidence', () => {
  it.each([[0.97, '97 %'], [0.82, '82 %'], [0.9931, '99.3 %'], [0.9994, '99.9 %'], [0.9999, '> 99.9 %'], [0.996, '99.6 %'], [0.976, '97 %'], [0.29, '29 %'], [0.8999, '89 %']])('%s is %s', (c, text) => expect(confidence(c)).toBe(text));
  it('is never certain', () => {
    for (const c of [0.99, 0.999, 0.99999, 1]) expect(confidence(c)).not.toBe('100 %');
  });
});

describe('numbers', () => {
  it('counts with commas', () => expect([count(0), count(12_345), count(null)]).toEqual(['0', '12,345', '–']));
  it('shortens', () => expect([short(18_234_567), short(940), short(1200), short(99_900), short(643.2), short(null)]).toEqual(['18 M', '940', '1.2 k', '100 k', '643.2', '–']));
});

describe('delay', () => {
  it.each([[0, '0 ns'], [940, '940 ns'], [42_000, '42.0 µs'], [182_000, '182 µs'], [1_240_000, '1.24 ms'], [2.5e9, '2.50 s'], [-8000, '−8.00 µs'], [null, '–']])('%s is %s', (ns, text) => expect(delay(ns)).toBe(text));
});

describe('time', () => {
  const now = Date.parse('2026-01-31T03:26:14Z');
  it.each([[0, '0 s'], [59_400, '59 s'], [90_000, '1 min 30 s'], [840_000, '14 min'], [7_500_000, '2 h 5 min'], [273_600_000, '3 d 4 h'], [-5, '0 s']])('%s ms is %s', (ms, text) => expect(duration(ms)).toBe(text));
  it('says how long ago', () => {
    expect(ago('2026-01-31T03:12:14Z', now)).toBe('14 min ago');
    expect(ago('2026-01-31T03:26:13.500Z', now)).toBe('now');
    expect(ago('2026-01-31T03:27:00Z', now)).toBe('now');
    expect(ago('soon', now)).toBe('–');
  });
  it('says UTC, and the day where it is another', () => {
    expect(clock('2026-01-31T03:12:08.500Z', now)).toBe('03:12:08 UTC');
    expect(clock('2026-01-30T23:12:08Z', now)).toBe('2026-01-30 23:12:08 UTC');
  });
  it('marks an axis in UTC, with seconds or days where they are needed', () => {
    const at = Date.parse('2026-01-31T23:50:00Z') / 1000;
    expect(times([at, at + 600, at + 1200])).toEqual(['23:50', '02-01', '00:10']);
    expect(times([at, at + 10])).toEqual(['23:50:00', '23:50:10']);
    expect(times([at, at + 86_400])).toEqual(['01-31', '02-01']);
  });
});

describe('faults', () => {
  it('has words for kinds, and the word itself for one it does not know', () => expect([kind('selective_loss'), kind('new_kind')]).toEqual(['Selective loss', 'new kind']));
  it('measures delay in time and loss in packets', () => {
    expect(size({ kind: 'delay', rate: 0.6, delay_excess_ns: 182_000 })).toBe('+182 µs');
    expect(size({ kind: 'loss', rate: 0.01, delay_excess_ns: 0 })).toBe('1.0 %');
  });
});
