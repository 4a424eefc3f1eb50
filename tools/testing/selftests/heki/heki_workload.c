// SPDX-License-Identifier: GPL-2.0
/*
 * What user space does all day: processes, pipes, files, a disk, signals, threads,
 * code that it writes itself, the vDSO, an LDT. A seal must not be felt by any of it.
 *
 *   heki_workload [-s SECONDS] [-d DISK]
 *
 * SECONDS: repeat every part for that long (default 1 round). DISK: its second block is
 * overwritten. Needs no seal, and harms nothing else; it passes on every kernel.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <linux/futex.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"

#define PROCESSES	8
#define PIPE_BYTES	65536
#define THREAD_ROUNDS	1000
#define MAX_THREADS	16

static const char *self;

static bool child_exits_with(pid_t pid, int code)
{
	int status;

	return pid > 0 && waitpid(pid, &status, 0) == pid &&
	       WIFEXITED(status) && WEXITSTATUS(status) == code;
}

static bool fork_and_exec(void)
{
	for (int i = 0; i < PROCESSES; i++) {
		pid_t pid = fork();

		if (!pid) {
			execl(self, self, "--exit", "42", NULL);
			_exit(1);
		}
		if (!child_exits_with(pid, 42))
			return false;
	}
	return true;
}

static bool write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n <= 0)
			return false;
		data += n;
		len -= n;
	}
	return true;
}

static bool read_all(int fd, char *data, size_t len)
{
	while (len) {
		ssize_t n = read(fd, data, len);

		if (n <= 0)
			return false;
		data += n;
		len -= n;
	}
	return true;
}

static bool pipes(void)
{
	static char out[PIPE_BYTES], in[PIPE_BYTES];
	int fds[2];
	pid_t pid;
	bool ok;

	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = i * 7;
	if (pipe(fds))
		return false;
	pid = fork();
	if (!pid)
		_exit(write_all(fds[1], out, sizeof(out)) ? 0 : 1);
	close(fds[1]);
	ok = read_all(fds[0], in, sizeof(in)) && !memcmp(in, out, sizeof(in));
	close(fds[0]);
	return child_exits_with(pid, 0) && ok;
}

static bool files(void)
{
	char name[] = "/tmp/heki_workloadXXXXXX", text[16] = "";
	int fd = mkstemp(name);
	bool ok;

	if (fd < 0)
		return false;
	ok = write_all(fd, "sealed or not", 14) &&
	     pread(fd, text, 14, 0) == 14 && !strcmp(text, "sealed or not") &&
	     !ftruncate(fd, 1 << 20) && lseek(fd, 0, SEEK_END) == 1 << 20;
	close(fd);
	return !unlink(name) && ok;
}

static volatile sig_atomic_t caught;

static void on_signal(int sig)
{
	caught++;
}

static bool signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct itimerval soon = { .it_value.tv_usec = 1000 };
	sigset_t blocked, old;

	caught = 0;
	if (sigaction(SIGUSR1, &action, NULL) || sigaction(SIGALRM, &action, NULL))
		return false;
	for (int i = 0; i < 100; i++)
		raise(SIGUSR1);

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGALRM);
	sigprocmask(SIG_BLOCK, &blocked, &old);
	setitimer(ITIMER_REAL, &soon, NULL);
	while (caught == 100)
		sigsuspend(&old);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return caught == 101;
}

static unsigned int nr_cpus(void)
{
	long nr = sysconf(_SC_NPROCESSORS_ONLN);

	return nr < 1 ? 1 : nr > MAX_THREADS ? MAX_THREADS : nr;
}

/* A CPU that has gone offline meanwhile is none to run on. */
static bool run_on(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return !sched_setaffinity(0, sizeof(set), &set) || errno == EINVAL;
}

/* Those that are offline now, too. */
static bool run_anywhere(void)
{
	cpu_set_t set;

	memset(&set, 0xff, sizeof(set));
	return !sched_setaffinity(0, sizeof(set), &set);
}

static atomic_uint counter;

static void *count(void *cpu)
{
	if (!run_on((uintptr_t)cpu))
		return NULL;
	for (int i = 0; i < THREAD_ROUNDS; i++) {
		atomic_fetch_add(&counter, 1);
		sched_yield();
	}
	return cpu;
}

/* One thread on each CPU. */
static bool threads(void)
{
	unsigned int nr = nr_cpus();
	pthread_t thread[MAX_THREADS];

	counter = 0;
	for (uintptr_t i = 0; i < nr; i++)
		if (pthread_create(&thread[i], NULL, count, (void *)i))
			return false;
	for (unsigned int i = 0; i < nr; i++)
		pthread_join(thread[i], NULL);
	return counter == nr * THREAD_ROUNDS;
}

static atomic_uint turn;

static void futex(int op, unsigned int value)
{
	syscall(SYS_futex, &turn, op, value, NULL, NULL, 0);
}

static void *pong(void *unused)
{
	for (unsigned int i = 0; i < THREAD_ROUNDS; i++) {
		while (turn != 2 * i + 1)
			futex(FUTEX_WAIT, 2 * i);
		turn = 2 * i + 2;
		futex(FUTEX_WAKE, 1);
	}
	return NULL;
}

static bool futexes(void)
{
	pthread_t thread;

	turn = 0;
	if (pthread_create(&thread, NULL, pong, NULL))
		return false;
	for (unsigned int i = 0; i < THREAD_ROUNDS; i++) {
		turn = 2 * i + 1;
		futex(FUTEX_WAKE, 1);
		while (turn != 2 * i + 2)
			futex(FUTEX_WAIT, 2 * i + 1);
	}
	pthread_join(thread, NULL);
	return turn == 2 * THREAD_ROUNDS;
}

/* Code that this process writes and then runs, as a JIT compiler does. */
static bool jit_returns(uint32_t value)
{
	/* endbr64; mov $imm32, %eax; ret */
	uint8_t code[] = { 0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 0, 0, 0, 0, 0xc3 };
	uint32_t (*fn)(void);
	void *page;
	bool ok;

	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return false;
	memcpy(code + 5, &value, sizeof(value));
	memcpy(page, code, sizeof(code));
	if (mprotect(page, 4096, PROT_READ | PROT_EXEC))
		return false;
	fn = page;
	ok = fn() == value;
	munmap(page, 4096);
	return ok;
}

/* On every CPU. */
static bool user_jit(void)
{
	bool ok = true;

	for (unsigned int cpu = 0; cpu < nr_cpus(); cpu++)
		ok = ok && run_on(cpu) && jit_returns(0x1000 + cpu);
	return run_anywhere() && ok;
}

typedef int (*clock_gettime_fn)(clockid_t, struct timespec *);

static const Elf64_Dyn *find_dynamic(const char *image, uintptr_t *bias)
{
	const Elf64_Ehdr *ehdr = (const void *)image;
	const Elf64_Phdr *phdr = (const void *)(image + ehdr->e_phoff);
	const Elf64_Dyn *dynamic = NULL;

	for (int i = 0; i < ehdr->e_phnum; i++) {
		if (phdr[i].p_type == PT_LOAD)
			*bias = (uintptr_t)image + phdr[i].p_offset - phdr[i].p_vaddr;
		if (phdr[i].p_type == PT_DYNAMIC)
			dynamic = (const void *)(image + phdr[i].p_offset);
	}
	return dynamic;
}

/* Looks a function up in the vDSO; the C library might call the kernel instead. */
static void *vdso_function(const char *name)
{
	const char *image = (const char *)getauxval(AT_SYSINFO_EHDR);
	const Elf64_Shdr *shdr;
	const Elf64_Sym *sym = NULL;
	const char *strings = NULL;
	const Elf64_Ehdr *ehdr;
	const Elf64_Dyn *dyn;
	uintptr_t bias = 0;
	size_t nr = 0;

	if (!image)
		return NULL;
	for (dyn = find_dynamic(image, &bias); dyn && dyn->d_tag != DT_NULL; dyn++) {
		if (dyn->d_tag == DT_SYMTAB)
			sym = (const void *)(bias + dyn->d_un.d_ptr);
		if (dyn->d_tag == DT_STRTAB)
			strings = (const void *)(bias + dyn->d_un.d_ptr);
	}
	ehdr = (const void *)image;
	shdr = (const void *)(image + ehdr->e_shoff);
	for (int i = 0; i < ehdr->e_shnum; i++)
		if (shdr[i].sh_type == SHT_DYNSYM)
			nr = shdr[i].sh_size / sizeof(*sym);
	for (size_t i = 0; sym && strings && i < nr; i++)
		if (!strcmp(strings + sym[i].st_name, name))
			return (void *)(bias + sym[i].st_value);
	return NULL;
}

static bool vdso(void)
{
	clock_gettime_fn gettime = vdso_function("__vdso_clock_gettime");
	struct timespec before, after;

	if (!gettime || gettime(CLOCK_MONOTONIC, &before))
		return false;
	for (int i = 0; i < 1000; i++) {
		if (gettime(CLOCK_MONOTONIC, &after))
			return false;
		if (after.tv_sec < before.tv_sec ||
		    (after.tv_sec == before.tv_sec && after.tv_nsec < before.tv_nsec))
			return false;
		before = after;
	}
	return true;
}

#define DISK_BYTES	4096

static const char *disk_path;

/* A machine without a disk has nothing to test. */
static bool no_disk(void)
{
	return !disk_path || access(disk_path, F_OK);
}

/* Past the page cache, from the second block on: the first is for others. */
static bool disk(void)
{
	static char out[DISK_BYTES] __attribute__((aligned(DISK_BYTES)));
	static char in[DISK_BYTES] __attribute__((aligned(DISK_BYTES)));
	static unsigned char round;
	int fd = no_disk() ? -1 : open(disk_path, O_RDWR | O_DIRECT);
	bool ok;

	if (fd < 0)
		return no_disk();
	memset(out, ++round, sizeof(out));
	out[0] = ~round;
	ok = pwrite(fd, out, sizeof(out), DISK_BYTES) == sizeof(out) && !fsync(fd) &&
	     pread(fd, in, sizeof(in), DISK_BYTES) == sizeof(in) &&
	     !memcmp(in, out, sizeof(in));
	close(fd);
	return ok;
}

#define LDT_ROUNDS	100
/* Entry 0 of the LDT, for user mode. */
#define LDT_SELECTOR	(1 << 2 | 3)

/* A kernel without modify_ldt() has nothing to test. */
static bool no_ldt(void)
{
	char none[8];

	return syscall(SYS_modify_ldt, 0, none, sizeof(none)) < 0 && errno == ENOSYS;
}

/* A segment of data that begins at @base, which is below 4 GiB. */
static bool set_ldt(const uint32_t *base)
{
	struct user_desc desc = {
		.base_addr = (uintptr_t)base,
		.limit = sizeof(*base) - 1,
		.seg_32bit = 1,
		.useable = 1,
	};

	return !syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc));
}

static uint32_t read_by_ldt(void)
{
	uint32_t value;

	asm volatile("mov %1, %%gs\n\t"
		     "mov %%gs:0, %0\n\t"
		     "mov %2, %%gs"
		     : "=&r" (value) : "r" (LDT_SELECTOR), "r" (0) : "memory");
	return value;
}

/* Whenever this process runs, it has its own LDT. */
static bool ldt_turns(int fd, const uint32_t *base, bool first)
{
	char byte = 0;

	signal(SIGPIPE, SIG_IGN);
	if (!run_on(0) || !set_ldt(base))
		return false;
	for (int i = 0; i < LDT_ROUNDS; i++) {
		if (!(first && !i) && read(fd, &byte, 1) != 1)
			return false;
		if (read_by_ldt() != *base)
			return false;
		/* The other one may be done. */
		if (write(fd, &byte, 1) != 1 && errno != EPIPE)
			return false;
	}
	return true;
}

/* Two processes with an LDT each take turns on one CPU. */
static bool user_ldt(void)
{
	uint32_t *bases = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	bool ok = true;
	pid_t pids[2];
	int fds[2];

	if (no_ldt())
		return true;
	if (bases == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		return false;
	for (int i = 0; i < 2; i++) {
		bases[i] = 0x1d70 + i;
		pids[i] = fork();
		if (!pids[i]) {
			close(fds[!i]);
			_exit(ldt_turns(fds[i], &bases[i], !i) ? 0 : 1);
		}
	}
	close(fds[0]);
	close(fds[1]);
	for (int i = 0; i < 2; i++)
		ok = child_exits_with(pids[i], 0) && ok;
	munmap(bases, 4096);
	return ok;
}

static const struct {
	const char *name;
	bool (*run)(void);
} parts[] = {
	{ "fork-exec", fork_and_exec },
	{ "pipes", pipes },
	{ "files", files },
	{ "disk", disk },
	{ "signals", signals },
	{ "threads", threads },
	{ "futexes", futexes },
	{ "user-jit", user_jit },
	{ "user-vdso", vdso },
	{ "user-ldt", user_ldt },
};

#define NR_PARTS (sizeof(parts) / sizeof(parts[0]))

static time_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

int main(int argc, char **argv)
{
	bool ok[NR_PARTS];
	unsigned long rounds = 0;
	time_t end = 0;
	int option;

	if (argc == 3 && !strcmp(argv[1], "--exit"))
		return atoi(argv[2]);
	while ((option = getopt(argc, argv, "s:d:")) != -1) {
		if (option == 's')
			end = now() + atoi(optarg);
		else if (option == 'd')
			disk_path = optarg;
		else
			return KSFT_FAIL;
	}
	if (optind != argc)
		return KSFT_FAIL;
	self = "/proc/self/exe";

	ksft_print_header();
	ksft_set_plan(NR_PARTS);
	memset(ok, true, sizeof(ok));
	do {
		for (size_t i = 0; i < NR_PARTS; i++)
			ok[i] = ok[i] && parts[i].run();
		rounds++;
	} while (now() < end);
	ksft_print_msg("%lu rounds\n", rounds);
	for (size_t i = 0; i < NR_PARTS; i++) {
		if (parts[i].run == disk && no_disk())
			ksft_test_result_skip("%s: there is none, or none was named\n", parts[i].name);
		else if (parts[i].run == user_ldt && no_ldt())
			ksft_test_result_skip("%s: this kernel has none\n", parts[i].name);
		else
			ksft_test_result(ok[i], "%s\n", parts[i].name);
	}
	ksft_finished();
}
