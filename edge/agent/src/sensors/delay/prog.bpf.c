// What makes a host look like a bad network: soft interrupts that begin late, threads that packets woke and that wait for a
// processor, packets that wait in queueing disciplines, and data that waits in a socket until somebody reads it.
//
// Every program here runs for something frequent, so each decides first whether it looks at all: one in mask + 1, where the
// mask is zero until there is much to look at (see mod.rs). What is under way is kept in small arrays at a place made of a
// thread's number or a structure's address; two at one place cost the earlier one its measurement, never a wrong one.
//
// - A thread is one of the network's where its waker was running received packets (NET_RX). A timer interrupt that wakes
//   somebody in the middle of that counts too.
// - A thread woken before it slept would carry its mark to its next sleep; the number of its context switches is another
//   one then, and the mark is void.
// - Structures are used again for others. What else is known of a packet or socket must be as it was too.

#include "../vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define NET_RX 3 // enum of <linux/interrupt.h>: the same number since 2009
#define AF_INET 2
#define AF_INET6 10
#define MSG_PEEK 2
#define LATE_NS 1000000

#define SUB_BITS 2
#define BUCKETS 128 // up to 8 s, each octave in 4

enum kind { SOFTIRQ_LATE, SOFTIRQ_RUN, RUN_QUEUE, QDISC, UNREAD };

struct key {
    __u32 netns; // 0: the whole kernel's
    __u32 kind;
};

struct histogram {
    __u64 runs;
    __u64 sum_ns;
    __u64 late;
    __u64 spare;
    __u64 bucket[BUCKETS];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1024);
    __type(key, struct key);
    __type(value, struct histogram);
} delays SEC(".maps");

// One in mask + 1 is looked at: soft interrupts, wake-ups, queued packets, data for sockets.
// The last word is of which turn of the programs at sockets this is: what an earlier one began is void.
enum mask { OF_SOFTIRQS, OF_WAKES, OF_QUEUED, OF_DATA, MASKS, TURN = MASKS, WORDS };

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64[WORDS]);
} masks SEC(".maps");

// Measurements that found no room in `delays`.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} lost SEC(".maps");

#define PROCESSORS 1024
struct processor {
    __u64 receiving;
    __u64 raised; // when NET_RX was; 0: not, or not looked at
    __u64 began;
    __u64 seen[MASKS];
    __u64 address; // see plain()
};
struct processor processors[PROCESSORS];

#define THREADS 1024
struct woken {
    __u32 pid; // 0: nobody
    __u32 switches;
    __u64 at;
};
struct woken woken[THREADS];

#define PLACES 256
struct waits {
    __u64 address; // 0: nothing
    __u64 what;
    __u64 at;
};
struct waits queued[PLACES];
struct waits unread[PLACES];

// What a new histogram begins with.
struct histogram none;

static __always_inline struct processor *mine(void)
{
    return &processors[bpf_get_smp_processor_id() & (PROCESSORS - 1)];
}

static __always_inline bool looks(struct processor *p, enum mask of)
{
    __u32 zero = 0;
    __u64 *mask = bpf_map_lookup_elem(&masks, &zero);
    return mask && !(p->seen[of]++ & mask[of]);
}

static __always_inline __u32 bucket_of(__u64 ns)
{
    if (ns < 4)
        return ns;
    __u32 e = 0;
    __u64 n = ns;
    if (n >> 32) { n >>= 32; e += 32; }
    if (n >> 16) { n >>= 16; e += 16; }
    if (n >> 8) { n >>= 8; e += 8; }
    if (n >> 4) { n >>= 4; e += 4; }
    if (n >> 2) { n >>= 2; e += 2; }
    if (n >> 1) e += 1;
    __u32 b = (e - 1) << SUB_BITS | (ns >> (e - SUB_BITS) & 3);
    return b < BUCKETS ? b : BUCKETS - 1;
}

static __noinline int add(__u32 netns, __u32 kind, __u64 ns)
{
    struct key key = { .netns = netns, .kind = kind };
    struct histogram *h = bpf_map_lookup_elem(&delays, &key);
    if (!h) {
        bpf_map_update_elem(&delays, &key, &none, BPF_NOEXIST);
        h = bpf_map_lookup_elem(&delays, &key);
        if (!h) {
            __u32 zero = 0;
            __u64 *n = bpf_map_lookup_elem(&lost, &zero);
            if (n)
                *n += 1;
            return 0;
        }
    }
    __u32 b = bucket_of(ns);
    h->runs++;
    h->sum_ns += ns;
    if (ns >= LATE_NS)
        h->late++;
    if (b < BUCKETS)
        h->bucket[b]++;
    return 0;
}

SEC("tp_btf/softirq_raise")
int BPF_PROG(softirq_raise, unsigned int which)
{
    if (which != NET_RX)
        return 0;
    struct processor *p = mine();
    if (!p->raised && looks(p, OF_SOFTIRQS))
        p->raised = bpf_ktime_get_ns();
    return 0;
}

SEC("tp_btf/softirq_entry")
int BPF_PROG(softirq_entry, unsigned int which)
{
    if (which != NET_RX)
        return 0;
    struct processor *p = mine();
    p->receiving = 1;
    __u64 raised = p->raised;
    if (!raised)
        return 0;
    p->raised = 0;
    p->began = bpf_ktime_get_ns();
    add(0, SOFTIRQ_LATE, p->began - raised);
    return 0;
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(softirq_exit, unsigned int which)
{
    if (which != NET_RX)
        return 0;
    struct processor *p = mine();
    p->receiving = 0;
    __u64 began = p->began;
    if (!began)
        return 0;
    p->began = 0;
    add(0, SOFTIRQ_RUN, bpf_ktime_get_ns() - began);
    return 0;
}

SEC("tp_btf/sched_waking")
int BPF_PROG(sched_waking, struct task_struct *task)
{
    struct processor *p = mine();
    if (!p->receiving || !looks(p, OF_WAKES))
        return 0;
    __u32 pid = task->pid;
    struct woken *w = &woken[pid & (THREADS - 1)];
    w->pid = 0;
    w->switches = (__u32)(task->nvcsw + task->nivcsw);
    w->at = bpf_ktime_get_ns();
    asm volatile("" ::: "memory");
    w->pid = pid;
    return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch, bool preempt, struct task_struct *before, struct task_struct *task)
{
    __u32 pid = task->pid;
    struct woken *w = &woken[pid & (THREADS - 1)];
    if (w->pid != pid || !pid)
        return 0;
    __u64 at = w->at;
    __u32 switches = w->switches;
    w->pid = 0;
    if ((__u32)(task->nvcsw + task->nivcsw) != switches)
        return 0;
    struct nsproxy *spaces = task->nsproxy;
    if (spaces)
        add(spaces->net_ns->ns.inum, RUN_QUEUE, bpf_ktime_get_ns() - at);
    return 0;
}

// The verifier lets nobody reckon with a pointer; what is read from a map is a number.
static __always_inline __u64 plain(const void *pointer)
{
    struct processor *p = mine();
    *(volatile __u64 *)&p->address = (__u64)pointer;
    return *(volatile __u64 *)&p->address;
}

static __always_inline struct waits *place_of(struct waits *in, __u64 address)
{
    return &in[(__u32)(address >> 6) * 0x9e3779b1u >> 24];
}

static __always_inline void begin(struct waits *w, __u64 address, __u64 what)
{
    w->address = 0;
    w->what = what;
    w->at = bpf_ktime_get_ns();
    asm volatile("" ::: "memory");
    w->address = address;
}

SEC("tp_btf/qdisc_enqueue")
int BPF_PROG(qdisc_enqueue, void *qdisc, void *txq, struct sk_buff *skb)
{
    if (!looks(mine(), OF_QUEUED))
        return 0;
    __u64 address = plain(skb);
    begin(place_of(queued, address), address, skb->len);
    return 0;
}

SEC("tp_btf/qdisc_dequeue")
int BPF_PROG(qdisc_dequeue, void *qdisc, void *txq, int packets, struct sk_buff *skb)
{
    if (!skb)
        return 0;
    __u64 address = plain(skb);
    struct waits *w = place_of(queued, address);
    if (w->address != address)
        return 0;
    w->address = 0;
    if (w->what == skb->len)
        add(skb->dev->nd_net.net->ns.inum, QDISC, bpf_ktime_get_ns() - w->at);
    return 0;
}

// A socket is the same one where its ports are.
static __always_inline __u64 ports(struct sock *sk)
{
    __u32 zero = 0;
    __u64 *words = bpf_map_lookup_elem(&masks, &zero);
    __u64 turn = words ? words[TURN] << 32 : 0;
    return turn | (__u64)sk->__sk_common.skc_num << 16 | sk->__sk_common.skc_dport;
}

static __always_inline bool is_internet(struct sock *sk)
{
    return sk->__sk_common.skc_family == AF_INET || sk->__sk_common.skc_family == AF_INET6;
}

SEC("tp_btf/sk_data_ready")
int BPF_PROG(sk_data_ready, struct sock *sk)
{
    if (!is_internet(sk) || !looks(mine(), OF_DATA))
        return 0;
    __u64 address = plain(sk), what = ports(sk);
    struct waits *w = place_of(unread, address);
    // What came first waits longest.
    if (w->address != address || w->what != what)
        begin(w, address, what);
    return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(sock_recv_length, struct sock *sk, int got, int flags)
{
    __u64 address = plain(sk);
    struct waits *w = place_of(unread, address);
    if (w->address != address || got <= 0 || flags & MSG_PEEK)
        return 0;
    w->address = 0;
    if (w->what == ports(sk))
        add(sk->__sk_common.skc_net.net->ns.inum, UNREAD, bpf_ktime_get_ns() - w->at);
    return 0;
}
