/* A disk that fails at the k-th call that changes it, below one folder. Loaded by LD_PRELOAD, armed by disk.py.
 *
 * A write that finds the disk full puts half of its bytes there first, as disks do, and from then on nothing finds room;
 * a disk that fails (EIO) does so once.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OWN = 1, SQLITE = 2 };

/* Shared with forks: the command that is armed does its work in a child. */
static struct {
  char folder[PATH_MAX], told[1 << 20];
  size_t told_end;
  int family, error, full;
  long at, count;
  pthread_mutex_t lock;
} *disk;

__attribute__((constructor)) static void share(void) {
  pthread_mutexattr_t shared;
  disk = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutexattr_init(&shared);
  pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&disk->lock, &shared);
}

void arm(const char *below, int which, long k, int code) {
  pthread_mutex_lock(&disk->lock);
  snprintf(disk->folder, sizeof disk->folder, "%s", below);
  disk->family = which, disk->at = k, disk->error = code, disk->count = 0, disk->full = 0;
  disk->told_end = 0, disk->told[0] = 0;
  pthread_mutex_unlock(&disk->lock);
}

const char *calls(void) { return disk->told; }

static int family_of(const char *path) {
  static const char *const ends[] = {".db", ".db-journal", ".db-wal", ".db-shm"};
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    size_t n = strlen(path), m = strlen(ends[i]);
    if (n >= m && !strcmp(path + n - m, ends[i])) return SQLITE;
  }
  return OWN;
}

/* Returns 0 to go on; else the error to fail with. `grows` calls need room. `*halve` is set where half may be written. */
static int fails(const char *name, const char *path, int grows, int *halve) {
  int failure = 0;
  size_t above = disk ? strlen(disk->folder) : 0;
  /* The folder itself is neither's: both flush it. */
  if (!above || strncmp(path, disk->folder, above) || path[above] != '/' || family_of(path) != disk->family) return 0;
  pthread_mutex_lock(&disk->lock);
  disk->count++;
  disk->told_end += snprintf(disk->told + disk->told_end, sizeof disk->told - disk->told_end, "%s %s\n", name, path + above);
  if (disk->told_end >= sizeof disk->told) disk->told_end = sizeof disk->told - 1;
  if (disk->full && grows) {
    failure = disk->error;
  } else if (disk->at && disk->count == disk->at) {
    if (disk->error != ENOSPC) {
      failure = disk->error;
    } else if (grows) {
      disk->full = 1;
      if (halve) *halve = 1;
      else failure = disk->error;
    } else {
      disk->full = 1; /* the next call that needs room fails */
    }
  }
  pthread_mutex_unlock(&disk->lock);
  return failure;
}

static int fd_fails(const char *name, int fd, int grows, int *halve) {
  char link[64], path[PATH_MAX];
  int kept = errno;
  if (!disk || !disk->folder[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  errno = kept;
  if (n <= 0 || path[0] != '/') return 0;
  path[n] = 0;
  return fails(name, path, grows, halve);
}

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define REFUSE(failure) \
  do { \
    int code = (failure); \
    if (code) { errno = code; return -1; } \
  } while (0)

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  int halve = 0;
  REFUSE(fd_fails("write", fd, 1, &halve));
  return real(fd, data, halve ? (size + 1) / 2 : size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
  REAL(pwrite);
  int halve = 0;
  REFUSE(fd_fails("write", fd, 1, &halve));
  return real(fd, data, halve ? (size + 1) / 2 : size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  REAL(pwrite64);
  int halve = 0;
  REFUSE(fd_fails("write", fd, 1, &halve));
  return real(fd, data, halve ? (size + 1) / 2 : size, offset);
}

ssize_t writev(int fd, const struct iovec *pieces, int number) {
  REAL(writev);
  int halve = 0;
  REFUSE(fd_fails("write", fd, 1, &halve));
  return real(fd, pieces, halve ? (number + 1) / 2 : number);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
  REAL(sendfile);
  REFUSE(fd_fails("write", out, 1, NULL));
  return real(out, in, offset, size);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
  REAL(sendfile64);
  REFUSE(fd_fails("write", out, 1, NULL));
  return real(out, in, offset, size);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
  REAL(copy_file_range);
  REFUSE(fd_fails("write", out, 1, NULL));
  return real(in, from, out, to, size, flags);
}

int ftruncate(int fd, off_t size) {
  REAL(ftruncate);
  REFUSE(fd_fails("truncate", fd, 0, NULL));
  return real(fd, size);
}

int ftruncate64(int fd, off64_t size) {
  REAL(ftruncate64);
  REFUSE(fd_fails("truncate", fd, 0, NULL));
  return real(fd, size);
}

int fsync(int fd) {
  REAL(fsync);
  REFUSE(fd_fails("fsync", fd, 0, NULL));
  return real(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  REFUSE(fd_fails("fsync", fd, 0, NULL));
  return real(fd);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  REFUSE(fails("rename", to, 0, NULL));
  return real(from, to);
}

int link(const char *from, const char *to) {
  REAL(link);
  REFUSE(fails("link", to, 1, NULL));
  return real(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
  REAL(linkat);
  REFUSE(fails("link", to, 1, NULL));
  return real(a, from, b, to, flags);
}

int unlink(const char *path) {
  REAL(unlink);
  REFUSE(fails("unlink", path, 0, NULL));
  return real(path);
}

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  struct stat there;
  if (stat(path, &there)) REFUSE(fails("mkdir", path, 1, NULL));
  return real(path, mode);
}

/* A file that is made, and not one that is opened. */
#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(name); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    struct stat there; \
    if (flags & O_CREAT && stat(path, &there)) REFUSE(fails("create", path, 1, NULL)); \
    return real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
