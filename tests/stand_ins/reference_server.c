/* A stand-in embeddings server that does not itself lag: canned bytes, one epoll loop, its own record.
 *
 *   reference_server VECTORS DIMENSIONS [SCRIPT] [RECORD]
 *
 * Answers every POST with so many vectors, as text, after a time that SCRIPT says: a list of
 * MS*TIMES, walked once per request and repeated ("10*49,200" is 49 answers after 10 ms, then one after
 * 200 ms), or stall:N:MS, with which the whole server sleeps once, for MS, when its N-th request has come.
 * RECORD gets one line per request: received_ns,answered_ns of CLOCK_MONOTONIC. The first line of its output
 * is its URL. GET answers a list of models.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MOST 4096
#define IN_BYTES (1 << 20)

typedef struct { char *in; size_t have; size_t out_at; int sending; int64_t received, due; int next; } Client;

static Client clients[MOST];
static char *answer, models[512];
static size_t answer_size, models_size;
static double steps[100000];
static int step_count, step_at;
static int64_t stall_at = -1, stall_for, requests;
static FILE *record;
static volatile sig_atomic_t ending;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void end(int number) { (void)number; ending = 1; }

static size_t make(char **out, const char *body, size_t size) {
    char head[160];
    int length = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", size);
    *out = malloc((size_t)length + size);
    memcpy(*out, head, (size_t)length);
    memcpy(*out + length, body, size);
    return (size_t)length + size;
}

static void make_answer(int vectors, int dimensions) {
    char *body = malloc((size_t)vectors * ((size_t)dimensions * 24 + 80) + 200), *at = body;
    at += sprintf(at, "{\"object\":\"list\",\"data\":[");
    for (int v = 0; v < vectors; v++) {
        at += sprintf(at, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":[", v ? "," : "", v);
        for (int d = 0; d < dimensions; d++)
            at += sprintf(at, "%s%.18f", d ? "," : "", (d % 2 ? -1 : 1) * 0.0123456789 * (v + 1));
        at += sprintf(at, "]}");
    }
    at += sprintf(at, "],\"model\":\"reference\",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d}}",
                  7 * vectors, 7 * vectors);
    answer_size = make(&answer, body, (size_t)(at - body));
    free(body);
}

static void read_script(char *text) {
    for (char *part = strtok(text, ","); part; part = strtok(NULL, ",")) {
        double at, length, ms; int times = 1;
        if (sscanf(part, "stall:%lf:%lf", &at, &length) == 2) {
            stall_at = (int64_t)at; stall_for = (int64_t)(length * 1e6);
        } else if (sscanf(part, "%lf*%d", &ms, &times) >= 1)
            while (times-- > 0 && step_count < 100000) steps[step_count++] = ms;
    }
}

static void drop(int poll, int fd) {
    epoll_ctl(poll, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
    free(clients[fd].in);
    memset(&clients[fd], 0, sizeof clients[fd]);
    clients[fd].next = -1;
}

static void send_rest(int poll, int fd) {
    Client *c = &clients[fd];
    while (c->out_at < answer_size) {
        ssize_t n = send(fd, answer + c->out_at, answer_size - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
            if (!c->sending) epoll_ctl(poll, EPOLL_CTL_MOD, fd, &e);
            c->sending = 1;
            return;
        }
        if (n < 0) { drop(poll, fd); return; }
        c->out_at += (size_t)n;
    }
    if (c->sending) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll, EPOLL_CTL_MOD, fd, &e);
        c->sending = 0;
    }
}

static void reply(int poll, int fd) {
    Client *c = &clients[fd];
    c->due = 0;
    c->out_at = 0;
    if (record) fprintf(record, "%lld,%lld\n", (long long)c->received, (long long)now_ns());
    send_rest(poll, fd);
}

/* Whether a whole request lies in the buffer; takes it out. Returns its method's first letter, or 0. */
static char take_request(Client *c) {
    char *head_end = memmem(c->in, c->have, "\r\n\r\n", 4);
    if (!head_end) return 0;
    size_t length = 0, head = (size_t)(head_end - c->in) + 4;
    for (char *line = c->in; line < head_end; line++) {
        line = memchr(line, '\n', (size_t)(head_end - line));
        if (!line) break;
        if (strncasecmp(line + 1, "content-length:", 15) == 0) length = strtoul(line + 16, NULL, 10);
    }
    if (c->have < head + length) return 0;
    char method = c->in[0];
    memmove(c->in, c->in + head + length, c->have - head - length);
    c->have -= head + length;
    return method;
}

static int64_t wait_of_next(void) {
    return step_count ? (int64_t)(steps[step_at++ % step_count] * 1e6) : 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    make_answer(atoi(argv[1]), atoi(argv[2]));
    if (argc > 3) read_script(argv[3]);
    if (argc > 4 && !(record = fopen(argv[4], "w"))) return 3;
    char *made;
    const char *list = "{\"object\":\"list\",\"data\":[{\"id\":\"reference\",\"object\":\"model\"}]}";
    models_size = make(&made, list, strlen(list));
    memcpy(models, made, models_size);
    for (int i = 0; i < MOST; i++) clients[i].next = -1;
    signal(SIGTERM, end); signal(SIGINT, end);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1, poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) return 4;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);

    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &e);
    e.data.fd = timer;
    epoll_ctl(poll, EPOLL_CTL_ADD, timer, &e);
    struct epoll_event ready[256];
    while (!ending) {
        int count = epoll_wait(poll, ready, 256, -1), waits = 0;
        int64_t soonest = 0;
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == timer) { uint64_t n; if (read(timer, &n, sizeof n) < 0) continue; continue; }
            if (fd == listener) {
                int new = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (new < 0) continue;
                if (new >= MOST) { close(new); continue; }
                setsockopt(new, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                clients[new].in = malloc(IN_BYTES);
                e.events = EPOLLIN; e.data.fd = new;
                epoll_ctl(poll, EPOLL_CTL_ADD, new, &e);
                continue;
            }
            Client *c = &clients[fd];
            if (ready[i].events & EPOLLOUT) send_rest(poll, fd);
            if (!(ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || !c->in) continue;
            ssize_t n = recv(fd, c->in + c->have, IN_BYTES - c->have, 0);
            if (n < 0 && errno == EAGAIN) continue;
            if (n <= 0) { drop(poll, fd); continue; }
            c->have += (size_t)n;
            char method = take_request(c);
            if (method == 'G') {
                if (send(fd, models, models_size, MSG_NOSIGNAL) < 0) drop(poll, fd);
                continue;
            }
            if (method != 'P') continue;
            c->received = now_ns();
            requests++;
            int64_t wait = wait_of_next();
            if (stall_at >= 0 && requests >= stall_at) {
                stall_at = -1;
                struct timespec t = {stall_for / 1000000000, stall_for % 1000000000};
                nanosleep(&t, NULL);
            }
            if (wait > 0) c->due = c->received + wait;
            else reply(poll, fd);
        }
        for (int fd = 0; fd < MOST; fd++) {
            if (!clients[fd].due) continue;
            if (clients[fd].due <= now_ns()) { reply(poll, fd); continue; }
            if (!soonest || clients[fd].due < soonest) soonest = clients[fd].due;
            waits++;
        }
        if (waits) {
            struct itimerspec t = {.it_value = {soonest / 1000000000, soonest % 1000000000}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
        }
    }
    if (record) fclose(record);
    return 0;
}
