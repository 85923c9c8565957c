// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// The fault element: hurts what comes in over one directed link, packet by packet.
//
// `fault` runs at the ingress hook of the interface that receives. There every packet is one wire segment, because
// the sending interface has its segmentation offloads switched off while a fault acts. `reinject` runs at the ingress
// of a TAP device and puts what the delay line gives back onto the receiving interface, behind the fault.
//
// The two maps are arrays of 64-bit words; edge/lab/src/fault/element.rs has the same lists by the same names.
// A probability is a threshold in 2^-32: 0 is never, 2^32 is always.

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))
#define inline __attribute__((always_inline)) inline

enum config {
	DROP,          // chance to drop
	FLOWS,         // share of flows to drop, by header hash
	FLOWS_SEED,    // which flows those are
	CORRUPT,       // chance to flip bits of the last byte
	ECN,           // chance to mark congestion experienced
	FLAP_PERIOD,   // ns; 0: no flapping
	FLAP_BAD,      // ns of each period, at its beginning, that are bad
	FLAP_RATE,     // chance to drop while they are
	FLAP_SINCE,    // when the first period began, CLOCK_MONOTONIC
	DIVERT,        // chance to go through the delay line
	DIVERT_TO,     // interface of the delay line
	BACK_TO,       // the interface `fault` is on
	CONFIG_WORDS
};

enum counter {
	SEEN,
	DROPPED,
	FLOW_DROPPED,
	CORRUPTED,
	MARKED,
	FLAP_DROPPED,
	DIVERTED,
	RETURNED,
	COUNTER_WORDS
};

struct config_words {
	__u64 word[CONFIG_WORDS];
};
struct counter_words {
	__u64 word[COUNTER_WORDS];
};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	struct config_words *value;
} fault_config SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	struct counter_words *value;
} fault_counters SEC(".maps");

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*ktime_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u32 (*random_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;
static long (*redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*load)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*store)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len,
		     __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;

// Marks what comes back from the delay line. Only lives between the two programs.
#define MARK 0x5e1bed9e
#define ETH_HEADER 14
#define IPV6_HEADER 40
#define EXTENSIONS_MAX 8

static inline int chance(__u64 threshold)
{
	return threshold && (__u64)random_u32() < threshold;
}

static inline void count(struct counter_words *c, enum counter which)
{
	__sync_fetch_and_add(&c->word[which], 1);
}

static inline __u32 mix(__u32 h, __u32 word)
{
	h ^= word;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	h ^= h >> 16;
	return h;
}

struct headers {
	__u32 outer;	  // offset of the outermost IPv6 header
	__u32 inner;	  // offset of the innermost one, the same where there is no tunnel
	__u32 transport;  // offset of what follows
	__u32 next;	  // its protocol
};

// Finds the IPv6 headers. 0: it is an IPv6 packet.
static inline int walk(struct __sk_buff *skb, struct headers *h)
{
	__u16 ethertype = 0;
	__u8 next = 0;
	__u32 at = ETH_HEADER;

	if (load(skb, 12, &ethertype, 2) || ethertype != __builtin_bswap16(0x86dd))
		return -1;
	if (load(skb, at + 6, &next, 1))
		return -1;
	h->outer = h->inner = at;
	at += IPV6_HEADER;
#pragma unroll
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		__u8 two[2];
		if (next == 41) { // IPv6 in IPv6
			h->inner = at;
			if (load(skb, at + 6, &next, 1))
				return -1;
			at += IPV6_HEADER;
		} else if (next == 0 || next == 43 || next == 60) { // hop-by-hop, routing, destination options
			if (load(skb, at, two, 2))
				return -1;
			next = two[0];
			at += 8 * ((__u32)two[1] + 1);
		} else {
			break;
		}
	}
	h->transport = at;
	h->next = next;
	return 0;
}

// Hash of what names a flow: innermost addresses and flow label, protocol and ports.
static inline __u32 flow_hash(struct __sk_buff *skb, const struct headers *h, __u32 seed)
{
	__u32 words[8], label = 0, ports = 0;
	__u32 hash = mix(seed, h->next);

	if (load(skb, h->inner, &label, 4) == 0)
		hash = mix(hash, label & __builtin_bswap32(0x000fffff));
	if (load(skb, h->inner + 8, words, sizeof(words)) == 0) {
#pragma unroll
		for (int i = 0; i < 8; i++)
			hash = mix(hash, words[i]);
	}
	if ((h->next == 6 || h->next == 17) && load(skb, h->transport, &ports, 4) == 0)
		hash = mix(hash, ports);
	return mix(hash, 0);
}

// Marks one IPv6 header as a congested switch does: only where the sender speaks ECN (RFC 3168).
static inline int mark_ce(struct __sk_buff *skb, __u32 at)
{
	__u8 byte = 0; // low half of the traffic class, high half of the flow label

	if (load(skb, at + 1, &byte, 1) || !(byte & 0x30))
		return 0;
	byte |= 0x30;
	return store(skb, at + 1, &byte, 1, 0) == 0;
}

SEC("classifier")
int fault(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config_words *f = map_lookup(&fault_config, &zero);
	struct counter_words *c = map_lookup(&fault_counters, &zero);
	struct headers h;
	int ip;

	if (!f || !c)
		return TC_ACT_UNSPEC;
	if (skb->mark == MARK) {
		skb->mark = 0;
		count(c, RETURNED);
		return TC_ACT_UNSPEC;
	}
	count(c, SEEN);

	if (f->word[FLAP_PERIOD]) {
		__u64 phase = (ktime_ns() - f->word[FLAP_SINCE]) % f->word[FLAP_PERIOD];
		if (phase < f->word[FLAP_BAD] && chance(f->word[FLAP_RATE])) {
			count(c, FLAP_DROPPED);
			return TC_ACT_SHOT;
		}
	}
	if (chance(f->word[DROP])) {
		count(c, DROPPED);
		return TC_ACT_SHOT;
	}
	ip = f->word[FLOWS] || f->word[ECN] ? walk(skb, &h) : -1;
	if (f->word[FLOWS] && ip == 0 && flow_hash(skb, &h, f->word[FLOWS_SEED]) < f->word[FLOWS]) {
		count(c, FLOW_DROPPED);
		return TC_ACT_SHOT;
	}
	if (ip == 0 && chance(f->word[ECN])) {
		int marked = mark_ce(skb, h.outer);
		if (h.inner != h.outer)
			marked |= mark_ce(skb, h.inner);
		if (marked)
			count(c, MARKED);
	}
	if (chance(f->word[CORRUPT])) {
		__u8 byte = 0;
		__u32 last = skb->len - 1;
		if (last > ETH_HEADER + IPV6_HEADER && load(skb, last, &byte, 1) == 0) {
			byte ^= 1 + random_u32() % 255;
			if (store(skb, last, &byte, 1, 0) == 0)
				count(c, CORRUPTED);
		}
	}
	if (chance(f->word[DIVERT])) {
		count(c, DIVERTED);
		return redirect(f->word[DIVERT_TO], 0);
	}
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int reinject(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config_words *f = map_lookup(&fault_config, &zero);

	if (!f)
		return TC_ACT_SHOT;
	skb->mark = MARK;
	return redirect(f->word[BACK_TO], BPF_F_INGRESS);
}

char license_text[] SEC("license") = "Dual MIT/GPL";
