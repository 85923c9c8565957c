// Packets by five-tuple, at both traffic-control hooks (tcx) of the interfaces of watched namespaces.
//
// It runs for each packet the kernel handles, which may be a burst of many wire segments; those are counted. Where there are
// many, one in mask + 1 is looked at and counts for as many. Counters only grow, and user space subtracts. Under an outer IPv6
// header (SRv6 encapsulation, with or without a routing header) the inner five-tuple is the flow; marks and hops left are the
// outer header's. Fragments after the first have no ports. What is neither IPv4 nor IPv6 is not counted.

#include "../vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define NEXT -1 // TCX_NEXT: the next program decides
#define ETHERNET 14
#define IPV4 0x0800
#define IPV6 0x86dd
#define TCP 6
#define UDP 17
#define CE 3 // RFC 3168

struct key {
    __u64 from[2];
    __u64 to[2];
    __u32 netns;
    __u32 ports; // from << 16 | to
    __u32 ifindex;
    __u32 how; // protocol, 0x100 encapsulated, 0x200 received
};

struct count {
    __u64 segments;
    __u64 bytes; // on the wire, Ethernet header included
    __u64 marked;
    __u32 hops_min;
    __u32 hops_max;
};

// One table for all processors: a flow stays on one as long as its queue does, and a table for each of a hundred would be a
// hundred times as large. A full one counts what it has no room for, where one that forgets the oldest would not know.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __type(key, struct key);
    __type(value, struct count);
} flows SEC(".maps");

// One in mask + 1 is looked at.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} mask SEC(".maps");

// Segments that found no room in `flows`, or whose headers could not be read.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} lost SEC(".maps");

static __always_inline __u16 be16(const __u8 *b)
{
    return (__u16)(b[0] << 8 | b[1]);
}

struct header {
    __u32 at; // where it begins, then where it ends
    __u32 kind;
    __u32 next;
    __u32 traffic;
    __u32 hops;
    __u32 later; // a fragment, and not the first
};

// Reads one network header into the key. 0 where it cannot be read.
static __always_inline int network(struct __sk_buff *skb, struct header *h, struct key *key)
{
    __u8 b[40] = {};
    h->later = 0;
    if (h->kind == IPV4) {
        if (bpf_skb_load_bytes(skb, h->at, b, 20))
            return 0;
        __u32 from, to;
        __builtin_memcpy(&from, b + 12, 4);
        __builtin_memcpy(&to, b + 16, 4);
        key->from[0] = key->to[0] = 0;
        key->from[1] = (__u64)from << 32 | 0xffff0000;
        key->to[1] = (__u64)to << 32 | 0xffff0000;
        h->traffic = b[1];
        h->hops = b[8];
        h->next = b[9];
        h->later = be16(b + 6) & 0x1fff;
        h->at += (b[0] & 15) * 4;
        return 1;
    }
    if (bpf_skb_load_bytes(skb, h->at, b, 40))
        return 0;
    __builtin_memcpy(key->from, b + 8, 16);
    __builtin_memcpy(key->to, b + 24, 16);
    h->traffic = (__u8)(b[0] << 4 | b[1] >> 4);
    h->hops = b[7];
    h->next = b[6];
    h->at += 40;
    // hop-by-hop options, destination options, routing, a fragment (RFC 8200)
    for (int i = 0; i < 4; i++) {
        __u8 o[8];
        if (h->next != 0 && h->next != 60 && h->next != 43 && h->next != 44)
            break;
        if (bpf_skb_load_bytes(skb, h->at, o, 8))
            return 0;
        if (h->next == 44)
            h->later = be16(o + 2) & 0xfff8;
        h->at += h->next == 44 ? 8 : 8 + o[1] * 8;
        h->next = o[0];
    }
    return 1;
}

// The namespace of the interface. The helper for its cookie tells that of the socket that sent the packet, which behind a veth is
// another. What a classifier is given is the kernel's packet.
static __always_inline __u32 netns_of(struct __sk_buff *skb)
{
    struct sk_buff *packet = (struct sk_buff *)skb;
    return BPF_CORE_READ(packet, dev, nd_net.net, ns.inum);
}

static __always_inline int lose(__u64 segments)
{
    __u32 zero = 0;
    __u64 *n = bpf_map_lookup_elem(&lost, &zero);
    if (n)
        *n += segments;
    return NEXT;
}

static __always_inline int account(struct __sk_buff *skb, __u32 received)
{
    __u32 zero = 0;
    __u64 *of = bpf_map_lookup_elem(&mask, &zero);
    __u64 rest = of ? *of : 0;
    if (rest && bpf_get_prandom_u32() & rest)
        return NEXT;
    struct key key = {};
    struct header outer = { .at = ETHERNET, .kind = __builtin_bswap16(skb->protocol) };
    if (outer.kind != IPV4 && outer.kind != IPV6)
        return NEXT;
    __u64 segments = skb->gso_segs ? skb->gso_segs : 1;
    __u64 each = rest + 1;
    if (!network(skb, &outer, &key))
        return lose(segments * each);
    struct header inner = outer;
    key.how = received;
    if (outer.kind == IPV6 && !outer.later && (outer.next == 41 || outer.next == 4)) {
        inner.kind = outer.next == 41 ? IPV6 : IPV4;
        if (!network(skb, &inner, &key))
            return lose(segments * each);
        key.how |= 0x100;
    }
    __u32 headers = inner.at;
    key.how |= inner.next;
    if (!inner.later && (inner.next == TCP || inner.next == UDP)) {
        __u8 b[13];
        if (bpf_skb_load_bytes(skb, inner.at, b, 4))
            return lose(segments * each);
        key.ports = (__u32)be16(b) << 16 | be16(b + 2);
        headers += 8;
        if (inner.next == TCP && !bpf_skb_load_bytes(skb, inner.at + 12, b, 1))
            headers = inner.at + (b[0] >> 4) * 4;
    }
    key.netns = netns_of(skb);
    key.ifindex = skb->ifindex;
    struct count *c = bpf_map_lookup_elem(&flows, &key);
    if (!c) {
        struct count fresh = { .hops_min = outer.hops, .hops_max = outer.hops };
        bpf_map_update_elem(&flows, &key, &fresh, BPF_NOEXIST);
        c = bpf_map_lookup_elem(&flows, &key);
        if (!c)
            return lose(segments * each);
    }
    __sync_fetch_and_add(&c->segments, segments * each);
    __sync_fetch_and_add(&c->bytes, (skb->len + (segments - 1) * headers) * each);
    if ((outer.traffic & 3) == CE)
        __sync_fetch_and_add(&c->marked, segments * each);
    // These may race, and the next packet puts them right.
    if (outer.hops < c->hops_min)
        c->hops_min = outer.hops;
    if (outer.hops > c->hops_max)
        c->hops_max = outer.hops;
    return NEXT;
}

SEC("classifier")
int flows_in(struct __sk_buff *skb)
{
    return account(skb, 0x200);
}

SEC("classifier")
int flows_out(struct __sk_buff *skb)
{
    return account(skb, 0);
}
