// The kernel's types, as far as the sensors read them: ours, and not a dump of one kernel's. Fields are found by name in
// the running kernel's BTF when a program is loaded (CO-RE), so offsets here mean nothing and what is not read is left out.
// License of the programs that include this: Dual BSD/GPL, because the helpers they call ask for it.
#pragma once

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __u16 __sum16;
typedef _Bool bool;
typedef __u64 u64;

enum { false = 0, true = 1 };

enum bpf_map_type {
    BPF_MAP_TYPE_HASH = 1,
    BPF_MAP_TYPE_ARRAY = 2,
    BPF_MAP_TYPE_PERCPU_HASH = 5,
    BPF_MAP_TYPE_PERCPU_ARRAY = 6,
    BPF_MAP_TYPE_LRU_HASH = 9,
};

enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };
enum { BPF_F_NO_PREALLOC = 1 };

// What a classifier is given, by the kernel's promise and not by its types (include/uapi/linux/bpf.h).
struct __sk_buff {
    __u32 len;
    __u32 pkt_type;
    __u32 mark;
    __u32 queue_mapping;
    __u32 protocol;
    __u32 vlan_present;
    __u32 vlan_tci;
    __u32 vlan_proto;
    __u32 priority;
    __u32 ingress_ifindex;
    __u32 ifindex;
    __u32 tc_index;
    __u32 cb[5];
    __u32 hash;
    __u32 tc_classid;
    __u32 data;
    __u32 data_end;
    __u32 napi_id;
    __u32 family;
    __u32 remote_ip4;
    __u32 local_ip4;
    __u32 remote_ip6[4];
    __u32 local_ip6[4];
    __u32 remote_port;
    __u32 local_port;
    __u32 data_meta;
    __u64 flow_keys;
    __u64 tstamp;
    __u32 wire_len;
    __u32 gso_segs;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
    unsigned int inum;
};

struct net {
    struct ns_common ns;
};

typedef struct {
    struct net *net;
} possible_net_t;

struct in6_addr {
    union {
        __u8 u6_addr8[16];
    } in6_u;
};

typedef struct {
    __s64 counter;
} atomic64_t;

struct sock_common {
    __be32 skc_daddr;
    __be32 skc_rcv_saddr;
    __be16 skc_dport;
    __u16 skc_num;
    unsigned short skc_family;
    volatile unsigned char skc_state;
    possible_net_t skc_net;
    struct in6_addr skc_v6_daddr;
    struct in6_addr skc_v6_rcv_saddr;
    atomic64_t skc_cookie;
};

struct sk_buff_head {
    __u32 qlen;
};

struct kernfs_node {
    __u64 id;
};

struct cgroup {
    struct kernfs_node *kn;
};

struct sock_cgroup_data {
    struct cgroup *cgroup;
};

struct inode {
    unsigned long i_ino;
};

struct socket {
    short type;
};

struct socket_alloc {
    struct socket socket;
    struct inode vfs_inode;
};

struct sock {
    struct sock_common __sk_common;
    struct sk_buff_head sk_receive_queue;
    int sk_rcvbuf;
    int sk_sndbuf;
    int sk_wmem_queued;
    unsigned long sk_pacing_rate;
    __u16 sk_protocol;
    struct socket *sk_socket;
    struct sock_cgroup_data sk_cgrp_data;
};

struct inet_sock {
    struct sock sk;
    __be16 inet_sport;
};

struct inet_connection_sock {
    struct inet_sock icsk_inet;
    __u8 icsk_ca_state : 5;
    __u8 icsk_retransmits;
    __u8 icsk_pending;
    __u32 icsk_rto;
};

struct tcp_rack {
    __u32 rtt_us;
};

struct tcp_sock {
    struct inet_connection_sock inet_conn;
    struct tcp_rack rack;
    __u64 bytes_acked;
    __u64 bytes_received;
    __u64 bytes_sent;
    __u64 bytes_retrans;
    __u32 segs_in;
    __u32 segs_out;
    __u32 data_segs_in;
    __u32 data_segs_out;
    __u32 srtt_us;
    __u32 snd_cwnd;
    __u32 packets_out;
    __u32 snd_wnd;
    __u32 rcv_wnd;
    __u32 snd_una;
    __u32 snd_nxt;
    __u32 write_seq;
    __u32 rcv_nxt;
    __u32 copied_seq;
    __u32 total_retrans;
    __u32 dsack_dups;
    __u32 reord_seen;
    __u32 rcv_ooopack;
    __u32 delivered;
    __u32 delivered_ce;
    __u32 lost;
    __u32 mss_cache;
    __u32 rate_delivered;
    __u32 rate_interval_us;
    __u32 chrono_start;
    __u32 chrono_stat[3];
    __u8 chrono_type : 2;
    __u16 timeout_rehash;
    __u16 total_rto;
};

struct net_device {
    int ifindex;
    possible_net_t nd_net;
};

struct skb_shared_info {
    unsigned short gso_segs;
};

typedef unsigned int sk_buff_data_t;

struct sk_buff {
    struct net_device *dev;
    struct sock *sk;
    unsigned int len;
    int skb_iif;
    __be16 protocol;
    __u16 transport_header;
    __u16 network_header;
    __u16 mac_header;
    sk_buff_data_t tail;
    sk_buff_data_t end;
    unsigned char *head;
    unsigned char *data;
    char cb[48];
};

struct tcp_skb_cb {
    __u16 tcp_gso_segs;
};

struct nsproxy {
    struct net *net_ns;
};

struct task_struct {
    int pid;
    unsigned long nvcsw;
    unsigned long nivcsw;
    struct nsproxy *nsproxy;
};

struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
    __u64 session_id;
    __u64 seq_num;
};

struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    struct sock_common *sk_common;
    unsigned int uid;
};

#pragma clang attribute pop
