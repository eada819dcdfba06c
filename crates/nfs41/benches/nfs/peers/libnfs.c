/* libnfs, by its functions that do not wait: NFS 4.0. As drive.rs does it. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <nfsc/libnfs.h>
#include <sys/stat.h>

#define ENTRIES 10000
#define MOST_CONTEXTS 2048

enum operation { STAT, READ, WRITE, REMOVE, NAMES, ENTRIES_, IDLE };

/* One that asks for one thing after the other. */
struct worker {
    struct nfs_context *nfs;
    struct nfsfh *file;
    double began;
    long index;
    size_t done;
    char path[256];
};

static char ip[64];
static int port;
static enum operation operation;
static size_t size;
static const char *directory;
static long files, next_index, most = -1;
static double from, until;
static double *took;
static size_t count, room;
static size_t running;
static char *content;

static double now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(struct worker *worker, const char *what, int status)
{
    fprintf(stderr, "%s %s: %d %s\n", what, worker->path, status, nfs_get_error(worker->nfs));
    exit(1);
}

static void begin(struct worker *worker);

static void ended(struct worker *worker)
{
    double end = now(CLOCK_MONOTONIC);
    if (end >= from && end < until) {
        if (count == room) {
            room = room ? 2 * room : 1 << 16;
            took = realloc(took, room * sizeof *took);
        }
        took[count++] = end - worker->began;
    }
    begin(worker);
}

static void closed(int status, struct nfs_context *nfs, void *data, void *private)
{
    (void)nfs, (void)data;
    if (status < 0)
        fail(private, "close", status);
    ended(private);
}

static void close_file(struct worker *worker)
{
    if (nfs_close_async(worker->nfs, worker->file, closed, worker) < 0)
        fail(worker, "close", 0);
}

static void has_read(int status, struct nfs_context *nfs, void *data, void *private)
{
    struct worker *worker = private;
    (void)nfs, (void)data;
    if (status <= 0)
        fail(worker, "read", status);
    worker->done += status;
    if (worker->done >= size)
        close_file(worker);
    else if (nfs_pread_async(worker->nfs, worker->file, worker->done, size - worker->done, has_read, worker) < 0)
        fail(worker, "read", 0);
}

static void synced(int status, struct nfs_context *nfs, void *data, void *private)
{
    (void)nfs, (void)data;
    if (status < 0)
        fail(private, "fsync", status);
    close_file(private);
}

static void has_written(int status, struct nfs_context *nfs, void *data, void *private)
{
    struct worker *worker = private;
    (void)nfs, (void)data;
    if (status <= 0)
        fail(worker, "write", status);
    worker->done += status;
    if (worker->done < size) {
        if (nfs_pwrite_async(worker->nfs, worker->file, worker->done, size - worker->done, content, has_written, worker) < 0)
            fail(worker, "write", 0);
    } else if (nfs_fsync_async(worker->nfs, worker->file, synced, worker) < 0)
        fail(worker, "fsync", 0);
}

static void opened(int status, struct nfs_context *nfs, void *data, void *private)
{
    struct worker *worker = private;
    (void)nfs;
    if (status < 0)
        fail(worker, "open", status);
    worker->file = data;
    worker->done = 0;
    int asked = operation == READ ? nfs_pread_async(worker->nfs, worker->file, 0, size, has_read, worker)
                                  : nfs_pwrite_async(worker->nfs, worker->file, 0, size, content, has_written, worker);
    if (asked < 0)
        fail(worker, "read or write", 0);
}

static void found(int status, struct nfs_context *nfs, void *data, void *private)
{
    (void)nfs;
    if (status < 0 || ((struct nfs_stat_64 *)data)->nfs_size != size)
        fail(private, "stat", status);
    ended(private);
}

static void removed(int status, struct nfs_context *nfs, void *data, void *private)
{
    (void)nfs, (void)data;
    if (status < 0)
        fail(private, "unlink", status);
    ended(private);
}

static void listed(int status, struct nfs_context *nfs, void *data, void *private)
{
    struct worker *worker = private;
    if (status < 0)
        fail(worker, "opendir", status);
    size_t entries = 0;
    for (struct nfsdirent *entry; (entry = nfs_readdir(nfs, data));)
        entries += entry->name[0] != '.';
    nfs_closedir(nfs, data);
    if (entries != ENTRIES) {
        fprintf(stderr, "%zu entries\n", entries);
        exit(1);
    }
    ended(worker);
}

static void begin(struct worker *worker)
{
    int asked = 0;
    worker->index = next_index++;
    worker->began = now(CLOCK_MONOTONIC);
    if (worker->began >= until || (most >= 0 && worker->index >= most)) {
        running--;
        return;
    }
    int is_new = operation == WRITE || operation == REMOVE;
    snprintf(worker->path, sizeof worker->path, "/%s/%ld", directory, is_new ? worker->index : worker->index % files);
    switch (operation) {
    case STAT:
        asked = nfs_stat64_async(worker->nfs, worker->path, found, worker);
        break;
    case READ:
        asked = nfs_open_async(worker->nfs, worker->path, O_RDONLY, opened, worker);
        break;
    case WRITE:
        asked = nfs_create_async(worker->nfs, worker->path, O_WRONLY | O_CREAT, 0644, opened, worker);
        break;
    case REMOVE:
        asked = nfs_unlink_async(worker->nfs, worker->path, removed, worker);
        break;
    case NAMES:
    case ENTRIES_:
        snprintf(worker->path, sizeof worker->path, "/%s", directory);
        asked = nfs_opendir_async(worker->nfs, worker->path, listed, worker);
        break;
    case IDLE:
        break;
    }
    if (asked < 0)
        fail(worker, "begin", asked);
}

static struct nfs_context *mounted(void)
{
    /* Each context is a client of its own, or the server takes the last one for all. */
    static int number;
    char url[128], name[64];
    struct nfs_context *nfs = nfs_init_context();
    snprintf(name, sizeof name, "libnfs-peer %d %d", (int)getpid(), number++);
    nfs4_set_client_name(nfs, name);
    snprintf(url, sizeof url, "nfs://%s/?version=4&nfsport=%d&dircache=0&auto-traverse-mounts=0", ip, port);
    struct nfs_url *parsed = nfs_parse_url_dir(nfs, url);
    if (!parsed || nfs_mount(nfs, ip, "/") < 0) {
        fprintf(stderr, "%s: %s\n", url, nfs_get_error(nfs));
        exit(1);
    }
    nfs_destroy_url(parsed);
    return nfs;
}

static double resident_kib(void)
{
    char line[128];
    double kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "VmRSS: %lf", &kib);
    if (status)
        fclose(status);
    return kib;
}

static void idle(int connections)
{
    double before = 0;
    char path[256];
    char *buffer = malloc(size);
    for (int index = 0; index < connections; index++) {
        if (index == connections / 11)
            before = resident_kib();
        struct nfs_context *nfs = mounted();
        struct nfsfh *file;
        size_t done = 0;
        snprintf(path, sizeof path, "/%s/%ld", directory, index % files);
        int status = nfs_open(nfs, path, O_RDONLY, &file);
        while (status >= 0 && done < size) {
            status = nfs_pread(nfs, file, done, size - done, buffer);
            done += status > 0 ? status : 0;
            if (!status)
                break;
        }
        if (status < 0 || done < size || nfs_close(nfs, file) < 0) {
            fprintf(stderr, "%s: %s\n", path, nfs_get_error(nfs));
            exit(1);
        }
    }
    printf("came to %.2f\n", (resident_kib() - before) / (connections - connections / 11));
}

static int by_size(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

int main(int many, char **arguments)
{
    static const char *names[] = {"stat", "read", "write", "remove", "names", "entries", "idle"};
    static struct nfs_context *contexts[MOST_CONTEXTS];
    static struct pollfd polled[MOST_CONTEXTS];
    if (many != 9 || sscanf(arguments[1], "%63[^:]:%d", ip, &port) != 2)
        return 2;
    int connections = atoi(arguments[2]);
    size_t in_flight = strtoul(arguments[3], NULL, 10);
    double length = 600, before = 0;
    if (strstr(arguments[4], "ms")) {
        length = atof(arguments[4]) / 1e3;
        before = length / 4;
    } else
        most = atol(arguments[4]);
    while (operation < IDLE && strcmp(names[operation], arguments[5]))
        operation++;
    size = strtoul(arguments[6], NULL, 10);
    directory = arguments[7];
    files = atol(arguments[8]);
    content = calloc(1, size + 1);
    if (operation == IDLE) {
        idle(connections);
        return 0;
    }
    for (int index = 0; index < connections; index++)
        contexts[index] = mounted();

    struct worker *workers = calloc(in_flight, sizeof *workers);
    from = now(CLOCK_MONOTONIC) + before;
    until = from + length;
    double used = 0;
    int counts = 0;
    /* Opens of one context have to follow each other: of several at once the server refuses all but one. */
    if ((operation == READ || operation == WRITE) && in_flight > (size_t)connections)
        in_flight = connections;
    running = in_flight;
    for (size_t index = 0; index < in_flight; index++) {
        workers[index].nfs = contexts[index % connections];
        begin(&workers[index]);
    }
    while (running) {
        for (int index = 0; index < connections; index++) {
            polled[index].fd = nfs_get_fd(contexts[index]);
            polled[index].events = nfs_which_events(contexts[index]);
        }
        if (poll(polled, connections, 100) < 0 && errno != EINTR)
            return 1;
        for (int index = 0; index < connections; index++)
            if (polled[index].revents && nfs_service(contexts[index], polled[index].revents) < 0) {
                fprintf(stderr, "%s\n", nfs_get_error(contexts[index]));
                return 1;
            }
        if (!counts && now(CLOCK_MONOTONIC) >= from) {
            counts = 1;
            used = now(CLOCK_PROCESS_CPUTIME_ID);
        }
    }
    used = now(CLOCK_PROCESS_CPUTIME_ID) - used;
    if (!count) {
        fprintf(stderr, "nothing was done in time\n");
        return 1;
    }
    qsort(took, count, sizeof *took, by_size);
    printf("came to %f %.2f %.2f %.3f\n", count / length, took[count / 2] * 1e6, took[(size_t)(count * 0.99)] * 1e6,
           used / count * 1e6);
    return 0;
}
