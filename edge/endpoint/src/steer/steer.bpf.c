// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Puts packets on exact paths: what leaves for a known address with a known flow label gets an outer IPv6 header whose
// destination is the path's container of compressed segments (RFC 9800, RFC 8986 H.Encaps.Red with one segment list in
// the address itself).
//
// Runs at the tcx egress hook of a host's uplinks. A burst (UDP_SEGMENT) passes whole and is cut up later, each piece
// with both headers. What is not in the map passes as it is, also what another such program before this one has
// wrapped already.
//
// steer.rs has the keys and the counters in the same order.

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))

struct key {
	__u32 to[4];   // destination, as on the wire
	__u32 label;   // flow label, host order
};

struct container {
	__u32 address[4];
};

struct counts {
	__u64 steered; // packets, a burst being one
	__u64 refused; // by the kernel, or too long to wrap: they went without
};

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*max_entries)[1]; // set when it is loaded
	struct key *key;
	struct container *value;
} steer_paths SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	struct counts *value;
} steer_counts SEC(".maps");

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*load)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*store)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len,
		     __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*adjust_room)(struct __sk_buff *skb, __s32 len_diff, __u32 mode,
			   __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;

#define ETH_HEADER 14
#define UDP 17
#define IPV6_IN_IPV6 41
#define HOP_LIMIT 64
#define PAYLOAD_MAX 65535

struct ipv6 {
	__u32 class_label; // version, traffic class, flow label
	__u16 payload;
	__u8 next;
	__u8 hop_limit;
	__u32 from[4];
	__u32 to[4];
};

SEC("classifier")
int steer(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct counts *counts = map_lookup(&steer_counts, &zero);
	struct container *path;
	struct ipv6 ip;
	struct key key;
	__u32 payload;

	if (!counts || skb->protocol != __builtin_bswap16(0x86dd) || load(skb, ETH_HEADER, &ip, sizeof(ip)) ||
	    ip.next != UDP)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(key.to, ip.to, sizeof(key.to));
	key.label = __builtin_bswap32(ip.class_label) & 0xfffff;
	path = map_lookup(&steer_paths, &key);
	if (!path)
		return TC_ACT_UNSPEC;

	payload = (__u32)__builtin_bswap16(ip.payload) + sizeof(ip);
	if (ip.payload == 0 || payload > PAYLOAD_MAX ||
	    adjust_room(skb, sizeof(ip), BPF_ADJ_ROOM_MAC,
			BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)) {
		__sync_fetch_and_add(&counts->refused, 1);
		return TC_ACT_UNSPEC;
	}
	// traffic class (with ECN, RFC 6040), flow label and source are the inner ones
	ip.payload = __builtin_bswap16((__u16)payload);
	ip.next = IPV6_IN_IPV6;
	ip.hop_limit = HOP_LIMIT;
	__builtin_memcpy(ip.to, path->address, sizeof(ip.to));
	if (store(skb, ETH_HEADER, &ip, sizeof(ip), 0))
		return TC_ACT_SHOT; // there is room, so this does not happen
	__sync_fetch_and_add(&counts->steered, 1);
	return TC_ACT_UNSPEC;
}

char license_text[] SEC("license") = "Dual MIT/GPL";
