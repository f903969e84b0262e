/* Turnpike extensions in C: ABI 1. What each function means is in ABI.md beside this file.
 *
 * A freestanding header: it needs no C library, and a module made with it imports nothing but what it calls of the switch.
 *   clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o my.wasm my.c
 * Numbers in memory are little-endian, those in frames big-endian (tp_be16, tp_be32). */
#ifndef TURNPIKE_H
#define TURNPIKE_H

typedef __UINT8_TYPE__ uint8_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
#define NULL ((void *)0)

#define TP_ABI 1
#define TP_EXPORT(name) __attribute__((export_name(#name))) name
#define TP_IMPORT(name) __attribute__((import_module("turnpike"), import_name(#name))) name

/* tp_kind */
enum { TP_CAPTURE = 1, TP_FILTER = 2, TP_FORWARDING = 3 };
/* Directions are the guest's: it sends (out), it receives (in). */
enum { TP_OUT = 0, TP_IN = 1 };
/* How long an answer stands: for all frames of the flow, the same for a second, for this frame. */
enum { TP_FLOW = 0x00, TP_SECOND = 0x10, TP_FRAME = 0x20 };

/* Answers of tp_judge. TP_CHANGE: head[] is what the frame is to begin with from now on (frames that a port sends only). */
#define TP_PASS(scope) ((uint32_t)(scope))
#define TP_DROP(scope, reason) ((uint32_t)(1 | (scope) | (reason) << 8))
#define TP_CHANGE(scope) ((uint32_t)(2 | (scope)))
/* Answers of tp_forward; TP_DROP is one too. */
#define TP_NATIVE(scope) ((uint32_t)(scope))
#define TP_TO_PORT(scope, port) ((uint32_t)(3 | (scope) | (uint32_t)(port) << 16))
#define TP_TO_ALL(scope) ((uint32_t)(4 | (scope)))

/* Text or bytes that a function returns; 0 = none. */
typedef uint64_t tp_text;
static inline tp_text tp_bytes(const void *at, uint32_t len) { return (uint64_t)len << 32 | (uint32_t)at; }
#define TP_TEXT(literal) tp_bytes(literal, sizeof(literal) - 1)

struct tp_frame {
    uint64_t now;       /* nanoseconds since an arbitrary start */
    uint64_t pool;      /* tp_sample: frames that this and all samples before were drawn from */
    uint32_t len;       /* of the whole frame, without FCS */
    uint32_t head_len;  /* bytes in head[]: all of the frame, or the first 192 */
    uint32_t vsid;      /* virtual subnet; 0 = none */
    uint16_t port;      /* who sends it (out, samples), who is to get it (in) */
    uint16_t from;      /* in: who sent it */
    uint16_t to;        /* tp_sample: the port of TP_REFUSED and TP_DELIVERED */
    uint8_t direction;  /* TP_OUT, TP_IN */
    uint8_t dry;        /* 1 = somebody only asks: remember nothing of it */
    uint8_t verdict;    /* tp_sample: one of those below */
    uint8_t zero[5];
    uint8_t head[192];
};
_Static_assert(sizeof(struct tp_frame) == 240, "the switch writes 240 bytes");
enum { TP_DROPPED = 1, TP_REFUSED = 2, TP_DELIVERED = 3, TP_FLOODED = 4, TP_ANSWERED = 5 };

struct tp_change {
    uint32_t what;      /* one of those below */
    uint32_t port;      /* 0 = the switch */
    uint8_t mac[6];     /* TP_NIC_CREATE, TP_NIC_UPDATED */
    uint16_t mtu;       /* the same */
    uint32_t kind;      /* TP_PORT_CREATE: 1 guest, 2 host, 3 uplink */
    uint32_t name_len;  /* of the port, policy or setting */
    uint32_t value_len; /* of its value as JSON; TP_TOO_LONG = tp_buffer had no room for it */
    char text[];        /* the name, then the value */
};
#define TP_TOO_LONG 0xffffffffu
/* Those marked ? may be refused. */
enum {
    TP_PORT_CREATE = 1, /* ? */
    TP_POLICY_ADD,      /* ? */
    TP_POLICY_UPDATE,   /* ? */
    TP_POLICY_DELETE,   /* ? */
    TP_SWITCH_UPDATE,   /* ? */
    TP_NIC_CREATE,      /* ? */
    TP_NIC_CONNECT,
    TP_NIC_UPDATED,
    TP_NIC_DISCONNECT,
    TP_NIC_DELETE,
    TP_PORT_TEARDOWN,
    TP_PORT_DELETE
};

struct tp_counters {
    uint64_t out_packets, out_bytes, out_drops, in_packets, in_bytes, in_drops;
};

/* What a module may call. */
void TP_IMPORT(tp_log)(const char *line, uint32_t len);
uint32_t TP_IMPORT(tp_inject)(uint32_t port, const void *frame, uint32_t len); /* port 0: as nobody's, trusted */
uint32_t TP_IMPORT(tp_datagram)(const void *ip, uint32_t ip_len, uint32_t port, const void *payload, uint32_t len);
void TP_IMPORT(tp_refresh)(void);
uint32_t TP_IMPORT(tp_counters)(uint32_t port, struct tp_counters *into);

/* The rest is help; nothing of it is part of the ABI. */

static inline uint32_t tp_be16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }
static inline uint32_t tp_be32(const uint8_t *at) { return tp_be16(at) << 16 | tp_be16(at + 2); }

/* The TCP or UDP header of a frame (IPv4 or IPv6 behind up to two VLAN tags); NULL = it has none among its first bytes,
 * also where it is behind extension headers or in a later fragment. */
static inline const uint8_t *tp_ports(const struct tp_frame *frame, uint32_t *protocol) {
    const uint8_t *head = frame->head;
    uint32_t end = frame->head_len, at = 12, ip;
    for (int tags = 0; tags < 2 && at + 2 <= end && (tp_be16(head + at) == 0x8100 || tp_be16(head + at) == 0x88a8); tags++)
        at += 4;
    ip = at + 2;
    if (ip + 20 <= end && tp_be16(head + at) == 0x0800 && head[ip] >> 4 == 4 && (head[ip] & 15) >= 5 &&
        (tp_be16(head + ip + 6) & 0x1fff) == 0) {
        *protocol = head[ip + 9];
        at = ip + (head[ip] & 15) * 4u;
    } else if (ip + 40 <= end && tp_be16(head + at) == 0x86dd && head[ip] >> 4 == 6) {
        *protocol = head[ip + 6];
        at = ip + 40;
    } else {
        return NULL;
    }
    return at + 4 <= end && (*protocol == 6 || *protocol == 17) ? head + at : NULL;
}

/* The numbers of `"key":[1,2]` or `"key":1` in a JSON object without nesting, at most `most` of them, each 0 to `largest`.
 * Returns how many there are, -1 if the key is not there or its value is anything else. */
static inline int tp_numbers(const char *json, uint32_t len, const char *key, uint32_t *into, int most, uint32_t largest) {
    uint32_t at = 0, key_len = 0;
    while (key[key_len])
        key_len++;
    for (; at + key_len + 2 < len; at++) {
        uint32_t n = 0;
        while (n < key_len && json[at + 1 + n] == key[n])
            n++;
        if (json[at] == '"' && n == key_len && json[at + 1 + n] == '"' && json[at + 2 + n] == ':')
            break;
    }
    if (at + key_len + 2 >= len)
        return -1;
    at += key_len + 3;
    int list = at < len && json[at] == '[', count = 0;
    at += (uint32_t)list;
    if (list && at < len && json[at] == ']')
        return 0;
    for (;;) {
        uint64_t number = 0;
        uint32_t begin = at;
        for (; at < len && json[at] >= '0' && json[at] <= '9' && number <= largest; at++)
            number = number * 10 + (uint32_t)(json[at] - '0');
        if (at == begin || number > largest || count == most || at >= len)
            return -1;
        into[count++] = (uint32_t)number;
        if (list && json[at] == ',') {
            at++;
            continue;
        }
        return json[at] == (list ? ']' : '}') || (!list && json[at] == ',') ? count : -1;
    }
}

/* A text that grows in a buffer; what does not fit is cut off. */
struct tp_writer {
    char *at, *end;
};
static inline void tp_put(struct tp_writer *to, const char *text) {
    while (*text && to->at < to->end)
        *to->at++ = *text++;
}
static inline void tp_put_number(struct tp_writer *to, uint64_t number) {
    char digits[21];
    int at = 20;
    digits[20] = 0;
    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    tp_put(to, digits + at);
}

#endif
