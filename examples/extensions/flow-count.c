/* A capture: how many flows each port began. It sees the first frame of each and answers for the rest, so it costs nothing after that.
 *
 *   clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o flow-count.wasm flow-count.c
 *
 * It has no settings. A flow that the switch's cache forgets, and any flow after a change of policy, is counted anew. */
#include "turnpike.h"

enum { MOST_NICS = 1025 };

static char buffer[65536];
static uint64_t begun[MOST_NICS];

uint32_t TP_EXPORT(tp_abi)(void) { return TP_ABI; }
uint32_t TP_EXPORT(tp_kind)(void) { return TP_CAPTURE; }
uint32_t TP_EXPORT(tp_judges)(uint32_t direction) { return direction == TP_OUT; }
void *TP_EXPORT(tp_buffer)(uint32_t len) { return len <= sizeof buffer ? buffer : NULL; }

uint32_t TP_EXPORT(tp_judge)(const struct tp_frame *frame) {
    if (!frame->dry && frame->port < MOST_NICS)
        begun[frame->port]++;
    return TP_PASS(TP_FLOW);
}

tp_text TP_EXPORT(tp_change)(uint64_t now, const struct tp_change *change) {
    (void)now;
    if (change->what == TP_PORT_CREATE && change->port < MOST_NICS)
        begun[change->port] = 0;
    return 0;
}

tp_text TP_EXPORT(tp_status)(uint32_t port) {
    struct tp_writer text = {buffer, buffer + sizeof buffer};
    uint64_t sum = 0;
    if (port >= MOST_NICS)
        return 0;
    for (uint32_t n = 0; n < MOST_NICS; n++)
        sum += begun[n];
    tp_put(&text, "{\"flows\":");
    tp_put_number(&text, port ? begun[port] : sum);
    tp_put(&text, "}");
    return tp_bytes(buffer, (uint32_t)(text.at - buffer));
}
