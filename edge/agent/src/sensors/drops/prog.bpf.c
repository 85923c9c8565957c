// Packets the kernel throws away, by reason and place: counted where they are freed, with the first header of each kind.
// One program at the tracepoint skb/kfree_skb. It runs once for each packet that is dropped, never for one that is not.

#include "../vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define HEADER_BYTES 64

struct key {
    __u64 place; // address of the instruction behind the call that freed it
    __u32 netns; // number of the network namespace; 0: of none that is known
    __u32 reason;
    __u32 ifindex;
    __u32 protocol; // EtherType
};

struct count {
    __u64 packets; // wire segments, not offloaded bursts
    __u64 bytes;
};

struct header {
    __u64 bytes[HEADER_BYTES / 8];
    __u64 length;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct key);
    __type(value, struct count);
} counts SEC(".maps");

// The first packet of each kind, until it is taken.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, struct key);
    __type(value, struct header);
} headers SEC(".maps");

// Packets that found no room in `counts`.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} lost SEC(".maps");

static __always_inline void keep_header(struct sk_buff *skb, struct key *key)
{
    struct header h = {};
    unsigned char *head = BPF_CORE_READ(skb, head);
    __u16 network = BPF_CORE_READ(skb, network_header);
    __u32 tail = BPF_CORE_READ(skb, tail);
    if (!head || network == (__u16)~0U || tail <= network)
        return;
    __u32 length = tail - network;
    if (length > HEADER_BYTES)
        length = HEADER_BYTES;
    // A constant length: short packets have room behind them, which is cut off by whoever reads this.
    if (bpf_probe_read_kernel(h.bytes, HEADER_BYTES, head + network))
        return;
    h.length = length;
    bpf_map_update_elem(&headers, key, &h, BPF_NOEXIST);
}

// `rx_sk` is the socket it was thrown away at, where there is one. By then its device may be forgotten, and what stands there
// be of a queue's tree: a device counts only where it is of the socket's namespace.
static __always_inline int account(struct sk_buff *skb, void *location, int reason, struct sock *rx_sk)
{
    struct key key = {};
    struct net_device *dev = BPF_CORE_READ(skb, dev);
    struct net *net = 0;
    key.place = (__u64)location;
    key.reason = reason;
    key.protocol = __builtin_bswap16(BPF_CORE_READ(skb, protocol));
    struct sock *sk = rx_sk;
    if (!sk && !dev)
        sk = BPF_CORE_READ(skb, sk);
    if (sk) {
        net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
        key.ifindex = BPF_CORE_READ(skb, skb_iif);
    }
    if (dev && (!net || BPF_CORE_READ(dev, nd_net.net) == net)) {
        net = BPF_CORE_READ(dev, nd_net.net);
        key.ifindex = BPF_CORE_READ(dev, ifindex);
    }
    if (net)
        key.netns = BPF_CORE_READ(net, ns.inum);

    struct skb_shared_info *info =
        (struct skb_shared_info *)(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, end));
    __u64 segments = BPF_CORE_READ(info, gso_segs);
    if (segments == 0)
        segments = 1;

    struct count *count = bpf_map_lookup_elem(&counts, &key);
    if (!count) {
        struct count none = {};
        bpf_map_update_elem(&counts, &key, &none, BPF_NOEXIST);
        count = bpf_map_lookup_elem(&counts, &key);
        if (!count) {
            __u32 zero = 0;
            __u64 *n = bpf_map_lookup_elem(&lost, &zero);
            if (n)
                *n += segments;
            return 0;
        }
    }
    if (count->packets == 0 || (count->packets & 1023) == 0)
        keep_header(skb, &key);
    count->packets += segments;
    count->bytes += BPF_CORE_READ(skb, len);
    return 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb_at_socket, struct sk_buff *skb, void *location, int reason, struct sock *rx_sk)
{
    return account(skb, location, reason, rx_sk);
}

// Before Linux 6.11 no socket is told.
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb, struct sk_buff *skb, void *location, int reason)
{
    return account(skb, location, reason, 0);
}
