/* A filter that is asked about each frame: no port sends more frames a second than its settings say, but for a burst of a tenth of that.
 *
 *   clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o frame-limit.wasm frame-limit.c
 *
 * Settings of the switch are for all ports, those of a port for this one: {"frames-per-second":1000}, 1 to 100000000. Without settings there is
 * no limit. */
#include "turnpike.h"

enum { MOST_NICS = 1025 };
#define SECOND 1000000000ull

static char buffer[4096];
/* Frames a second; 0 = as the switch's (place 0), which is no limit if it is 0 too. */
static uint32_t limits[MOST_NICS];
/* The time up to which a port has used what it may send: a leaky bucket in one number. */
static uint64_t used[MOST_NICS], dropped[MOST_NICS];

uint32_t TP_EXPORT(tp_abi)(void) { return TP_ABI; }
uint32_t TP_EXPORT(tp_kind)(void) { return TP_FILTER; }
tp_text TP_EXPORT(tp_reasons)(void) { return TP_TEXT("too-many-frames\n"); }
uint32_t TP_EXPORT(tp_judges)(uint32_t direction) { return direction == TP_OUT; }
void *TP_EXPORT(tp_buffer)(uint32_t len) { return len <= sizeof buffer ? buffer : NULL; }

uint32_t TP_EXPORT(tp_judge)(const struct tp_frame *frame) {
    uint32_t port = frame->port, limit;
    uint64_t from;
    if (port >= MOST_NICS)
        return TP_PASS(TP_FRAME);
    limit = limits[port] ? limits[port] : limits[0];
    if (!limit)
        return TP_PASS(TP_FRAME);
    from = used[port] > frame->now ? used[port] : frame->now;
    if (from - frame->now > SECOND / 10) {
        if (!frame->dry)
            dropped[port]++;
        return TP_DROP(TP_FRAME, 0);
    }
    if (!frame->dry)
        used[port] = from + SECOND / limit;
    return TP_PASS(TP_FRAME);
}

tp_text TP_EXPORT(tp_set)(uint32_t port, const char *settings, uint32_t len) {
    uint32_t limit = 0;
    if (port >= MOST_NICS)
        return TP_TEXT("there is no such port");
    if (len && (tp_numbers(settings, len, "frames-per-second", &limit, 1, 100000000) != 1 || !limit))
        return TP_TEXT("'frames-per-second' has to be 1 to 100000000");
    limits[port] = limit;
    return 0;
}

tp_text TP_EXPORT(tp_change)(uint64_t now, const struct tp_change *change) {
    (void)now;
    if (change->what == TP_PORT_CREATE && change->port && change->port < MOST_NICS)
        limits[change->port] = 0, used[change->port] = 0, dropped[change->port] = 0;
    return 0;
}

tp_text TP_EXPORT(tp_status)(uint32_t port) {
    struct tp_writer text = {buffer, buffer + sizeof buffer};
    uint64_t sum = 0;
    if (port >= MOST_NICS)
        return 0;
    for (uint32_t n = 0; n < MOST_NICS; n++)
        sum += dropped[n];
    tp_put(&text, "{\"dropped\":");
    tp_put_number(&text, port ? dropped[port] : sum);
    tp_put(&text, "}");
    return tp_bytes(buffer, (uint32_t)(text.at - buffer));
}
