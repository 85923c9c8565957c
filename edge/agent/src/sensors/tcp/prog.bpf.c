// TCP, connection by connection. An iterator reads every open socket once an interval: it costs nothing while packets flow.
// What an iterator cannot know is counted at tracepoints that are rare: why a segment was sent again, and what became of a
// connection that opened and closed between two readings. Round trip times are sampled, one acknowledgement in sixteen.

#include "../vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define AF_INET 2
#define AF_INET6 10
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define TCP_CA_RECOVERY 3
#define TCP_CA_LOSS 4
#define ICSK_TIME_LOSS_PROBE 5
#define BUCKETS 48
#define IPPROTO_TCP 6

// Of an open connection; in the order in which tcp/mod.rs reads it.
struct row {
    __u64 sock;
    __u64 cookie;
    __u64 inode;
    __u64 cgroup;
    __u64 bytes_acked;
    __u64 bytes_received;
    __u64 bytes_sent;
    __u64 bytes_retrans;
    __u64 pacing_rate; // bytes a second
    __u8 local[16];
    __u8 remote[16];
    __u32 local_port;
    __u32 remote_port;
    __u32 family;
    __u32 state;
    __u32 ca_state;
    __u32 uid;
    __u32 srtt_us; // shifted by 3, as the kernel keeps it
    __u32 rto;
    __u32 cwnd;
    __u32 mss;
    __u32 snd_wnd;
    __u32 rcv_wnd;
    __u32 unacked; // bytes sent and not acknowledged
    __u32 unsent; // bytes written and not sent
    __u32 unread; // bytes received in order and not read
    __u32 packets_out;
    __u32 segs_in;
    __u32 segs_out;
    __u32 data_segs_in;
    __u32 data_segs_out;
    __u32 total_retrans;
    __u32 dsack_dups;
    __u32 reord_seen;
    __u32 rcv_ooopack;
    __u32 delivered;
    __u32 delivered_ce;
    __u32 lost;
    __u32 rate_delivered; // packets
    __u32 rate_interval_us;
    __u32 chrono_busy; // jiffies
    __u32 chrono_rwnd;
    __u32 chrono_sndbuf;
    __u32 chrono_type;
    __u32 chrono_start;
    __u32 receive_buffer;
    __u32 send_buffer;
};

// Why segments of a connection were sent again.
struct causes {
    __u64 fast;
    __u64 timeout;
    __u64 probe;
    __u64 counted; // by the connection itself, when the last event came
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 32768);
    __type(key, __u64);
    __type(value, struct causes);
} retransmits SEC(".maps");

// Round trip times of a connection since it was last read, microseconds: four buckets an octave, from 1 µs on.
struct times {
    __u32 min;
    __u32 max;
    __u32 count;
    __u32 unused;
    __u32 buckets[BUCKETS];
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, __u64);
    __type(value, struct times);
} round_trips SEC(".maps");

// Connections that ended, together: who they were with, and on which well known port.
struct ended_key {
    __u8 remote[16];
    __u32 netns;
    __u32 port; // the smaller of the two
};

struct ended {
    __u64 connections;
    __u64 failed; // that never were established
    __u64 bytes_acked;
    __u64 bytes_received;
    __u64 segs_out;
    __u64 retrans;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
    __uint(max_entries, 8192);
    __type(key, struct ended_key);
    __type(value, struct ended);
} ended SEC(".maps");

// Connections that found no room in `ended`.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} lost SEC(".maps");

static __always_inline void addresses(struct sock_common *c, __u8 *local, __u8 *remote, __u32 family)
{
    if (family == AF_INET) {
        __u32 a = BPF_CORE_READ(c, skc_rcv_saddr), b = BPF_CORE_READ(c, skc_daddr);
        local[10] = local[11] = remote[10] = remote[11] = 0xff;
        __builtin_memcpy(local + 12, &a, 4);
        __builtin_memcpy(remote + 12, &b, 4);
    } else {
        BPF_CORE_READ_INTO((struct in6_addr *)local, c, skc_v6_rcv_saddr);
        BPF_CORE_READ_INTO((struct in6_addr *)remote, c, skc_v6_daddr);
    }
}

SEC("iter/tcp")
int dump(struct bpf_iter__tcp *ctx)
{
    struct sock_common *c = ctx->sk_common;
    if (!c)
        return 0;
    __u8 state = BPF_CORE_READ(c, skc_state);
    // Those that only wait out their time have nothing to tell.
    if (state == TCP_CLOSE || state == TCP_LISTEN)
        return 0;
    struct tcp_sock *t = bpf_skc_to_tcp_sock(c);
    if (!t)
        return 0;
    struct sock *sk = (struct sock *)t;
    struct inet_connection_sock *icsk = (struct inet_connection_sock *)t;
    struct row r = {};
    r.sock = (__u64)t;
    r.family = BPF_CORE_READ(c, skc_family);
    r.state = state;
    r.uid = ctx->uid;
    addresses(c, r.local, r.remote, r.family);
    r.local_port = BPF_CORE_READ(c, skc_num);
    r.remote_port = __builtin_bswap16(BPF_CORE_READ(c, skc_dport));
    r.cookie = bpf_get_socket_cookie(c);
    struct socket *socket = BPF_CORE_READ(sk, sk_socket);
    if (socket) {
        struct socket_alloc *whole = (struct socket_alloc *)socket;
        r.inode = BPF_CORE_READ(whole, vfs_inode.i_ino);
    }
    struct cgroup *cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
    if (cgroup)
        r.cgroup = BPF_CORE_READ(cgroup, kn, id);
    r.bytes_acked = BPF_CORE_READ(t, bytes_acked);
    r.bytes_received = BPF_CORE_READ(t, bytes_received);
    r.bytes_sent = BPF_CORE_READ(t, bytes_sent);
    r.bytes_retrans = BPF_CORE_READ(t, bytes_retrans);
    r.pacing_rate = BPF_CORE_READ(sk, sk_pacing_rate);
    r.ca_state = BPF_CORE_READ_BITFIELD_PROBED(icsk, icsk_ca_state);
    r.srtt_us = BPF_CORE_READ(t, srtt_us);
    r.rto = BPF_CORE_READ(icsk, icsk_rto);
    r.cwnd = BPF_CORE_READ(t, snd_cwnd);
    r.mss = BPF_CORE_READ(t, mss_cache);
    r.snd_wnd = BPF_CORE_READ(t, snd_wnd);
    r.rcv_wnd = BPF_CORE_READ(t, rcv_wnd);
    r.unacked = BPF_CORE_READ(t, snd_nxt) - BPF_CORE_READ(t, snd_una);
    r.unsent = BPF_CORE_READ(t, write_seq) - BPF_CORE_READ(t, snd_nxt);
    r.unread = BPF_CORE_READ(t, rcv_nxt) - BPF_CORE_READ(t, copied_seq);
    r.packets_out = BPF_CORE_READ(t, packets_out);
    r.segs_in = BPF_CORE_READ(t, segs_in);
    r.segs_out = BPF_CORE_READ(t, segs_out);
    r.data_segs_in = BPF_CORE_READ(t, data_segs_in);
    r.data_segs_out = BPF_CORE_READ(t, data_segs_out);
    r.total_retrans = BPF_CORE_READ(t, total_retrans);
    r.dsack_dups = BPF_CORE_READ(t, dsack_dups);
    r.reord_seen = BPF_CORE_READ(t, reord_seen);
    r.rcv_ooopack = BPF_CORE_READ(t, rcv_ooopack);
    r.delivered = BPF_CORE_READ(t, delivered);
    r.delivered_ce = BPF_CORE_READ(t, delivered_ce);
    r.lost = BPF_CORE_READ(t, lost);
    r.rate_delivered = BPF_CORE_READ(t, rate_delivered);
    r.rate_interval_us = BPF_CORE_READ(t, rate_interval_us);
    r.chrono_busy = BPF_CORE_READ(t, chrono_stat[0]);
    r.chrono_rwnd = BPF_CORE_READ(t, chrono_stat[1]);
    r.chrono_sndbuf = BPF_CORE_READ(t, chrono_stat[2]);
    r.chrono_type = BPF_CORE_READ_BITFIELD_PROBED(t, chrono_type);
    r.chrono_start = BPF_CORE_READ(t, chrono_start);
    // What goes on right now is not in the sums yet.
    __u32 going_on = (__u32)bpf_jiffies64() - r.chrono_start;
    if (r.chrono_type == 1)
        r.chrono_busy += going_on;
    else if (r.chrono_type == 2)
        r.chrono_rwnd += going_on;
    else if (r.chrono_type == 3)
        r.chrono_sndbuf += going_on;
    r.receive_buffer = BPF_CORE_READ(sk, sk_rcvbuf);
    r.send_buffer = BPF_CORE_READ(sk, sk_sndbuf);
    bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
    return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_skb, struct sock *sk, struct sk_buff *skb)
{
    struct tcp_skb_cb *cb = (struct tcp_skb_cb *)((char *)skb + bpf_core_field_offset(skb->cb));
    __u64 segments = BPF_CORE_READ(cb, tcp_gso_segs);
    if (segments == 0)
        segments = 1;
    __u64 key = (__u64)sk;
    struct causes *c = bpf_map_lookup_elem(&retransmits, &key);
    if (!c) {
        struct causes none = {};
        bpf_map_update_elem(&retransmits, &key, &none, BPF_NOEXIST);
        c = bpf_map_lookup_elem(&retransmits, &key);
        if (!c)
            return 0;
    }
    // From 6.17 on there is an event also where nothing was sent, such as when the segment before it still waits in the
    // host's own queue: then the connection has counted nothing.
    struct tcp_sock *t = (struct tcp_sock *)sk;
    __u64 counted = BPF_CORE_READ(t, total_retrans);
    if (counted - c->counted < segments)
        segments = counted - c->counted;
    c->counted = counted;
    struct inet_connection_sock *icsk = (struct inet_connection_sock *)sk;
    __u32 ca_state = BPF_CORE_READ_BITFIELD_PROBED(icsk, icsk_ca_state);
    if (ca_state == TCP_CA_LOSS)
        __sync_fetch_and_add(&c->timeout, segments);
    // The timer of a probe may also be set, and not have run out, while a loss is being repaired.
    else if (ca_state < TCP_CA_RECOVERY && BPF_CORE_READ(icsk, icsk_pending) == ICSK_TIME_LOSS_PROBE)
        __sync_fetch_and_add(&c->probe, segments);
    else
        __sync_fetch_and_add(&c->fast, segments);
    return 0;
}

static __always_inline __u32 bucket(__u32 us)
{
    if (us < 4)
        return us;
    __u32 octave = 31;
    if (!(us & 0xffff0000)) { octave -= 16; us <<= 16; }
    if (!(us & 0xff000000)) { octave -= 8; us <<= 8; }
    if (!(us & 0xf0000000)) { octave -= 4; us <<= 4; }
    if (!(us & 0xc0000000)) { octave -= 2; us <<= 2; }
    if (!(us & 0x80000000)) { octave -= 1; us <<= 1; }
    // octave >= 2: four buckets by the two bits behind the first
    __u32 b = (octave - 1) * 4 + ((us >> 29) & 3);
    return b < BUCKETS ? b : BUCKETS - 1;
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(tcp_probe, struct sock *sk)
{
    if (bpf_get_prandom_u32() & 15)
        return 0;
    struct tcp_sock *t = (struct tcp_sock *)sk;
    __u32 us = BPF_CORE_READ(t, rack.rtt_us);
    if (us == 0)
        return 0;
    __u64 key = (__u64)sk;
    struct times *times = bpf_map_lookup_elem(&round_trips, &key);
    if (!times) {
        struct times none = { .min = us, .max = us };
        bpf_map_update_elem(&round_trips, &key, &none, BPF_NOEXIST);
        times = bpf_map_lookup_elem(&round_trips, &key);
        if (!times)
            return 0;
    }
    if (us < times->min)
        times->min = us;
    if (us > times->max)
        times->max = us;
    times->count += 1;
    __u32 b = bucket(us);
    if (b < BUCKETS)
        times->buckets[b] += 1;
    return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int before, int after)
{
    if (after != TCP_CLOSE)
        return 0;
    struct sock_common *c = &sk->__sk_common;
    __u32 family = BPF_CORE_READ(c, skc_family);
    if ((family != AF_INET && family != AF_INET6) || before == TCP_LISTEN ||
        BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
        return 0;
    struct tcp_sock *t = (struct tcp_sock *)sk;
    __u64 sock = (__u64)sk;
    bpf_map_delete_elem(&retransmits, &sock);
    bpf_map_delete_elem(&round_trips, &sock);
    struct ended_key key = {};
    __u8 local[16] = {};
    addresses(c, local, key.remote, family);
    // The number of its own port is given back before a socket closes; what it wrote into packets is still there.
    struct inet_sock *inet = (struct inet_sock *)sk;
    __u32 a = __builtin_bswap16(BPF_CORE_READ(inet, inet_sport)), b = __builtin_bswap16(BPF_CORE_READ(c, skc_dport));
    key.port = a < b ? a : b;
    key.netns = BPF_CORE_READ(c, skc_net.net, ns.inum);
    struct ended *e = bpf_map_lookup_elem(&ended, &key);
    if (!e) {
        struct ended none = {};
        bpf_map_update_elem(&ended, &key, &none, BPF_NOEXIST);
        e = bpf_map_lookup_elem(&ended, &key);
        if (!e) {
            __u32 zero = 0;
            __u64 *n = bpf_map_lookup_elem(&lost, &zero);
            if (n)
                *n += 1;
            return 0;
        }
    }
    e->connections += 1;
    if (before == TCP_SYN_SENT)
        e->failed += 1;
    e->bytes_acked += BPF_CORE_READ(t, bytes_acked);
    e->bytes_received += BPF_CORE_READ(t, bytes_received);
    e->segs_out += BPF_CORE_READ(t, segs_out);
    e->retrans += BPF_CORE_READ(t, total_retrans);
    return 0;
}
