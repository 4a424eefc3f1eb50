// SPDX-License-Identifier: GPL-2.0
/*
 * What user space does all day, one thing at a time, so that it can be counted.
 *
 *   heki_loops                  each loop
 *   heki_loops boot             the ticks since this machine was made
 *   heki_loops run NAME CMD...  a command, as if it were a loop of one round
 *
 * A loop is run warm, then for its ticks, then between marks for the host's trace:
 * heki_living must be loaded. Prints lines "figure: loop name=NAME number=N ops=N ticks=N",
 * the ticks of the quickest of ROUNDS; NUMBER is in the marks. Under Bochs a tick is an
 * emulated instruction, whoever ran it: guest or host.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/futex.h>
#include <unistd.h>
#include <x86intrin.h>

#define ROUNDS		20
#define MARK		"/sys/kernel/debug/heki_living/mark"
/* A mark is the number of a loop behind this bit, or what is to be counted of a seal. */
#define MARK_SHIFT	1
#define MARK_SEAL	1
/* A hypercall that there is none of; user mode is refused, but traced. */
#define MARK_CALL	0x2f0

static int mark_fd;

/* To an I/O port: a trigger on that event has the host count exits from here. */
static void mark_begin(unsigned int value)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", value);

	if (write(mark_fd, text, len) != len)
		err(1, "%s", MARK);
}

/* Another event, for one has but one trigger for each other event. */
static void mark_end(unsigned int value)
{
	long ret = MARK_CALL;

	if (__builtin_cpu_is("amd"))
		asm volatile("vmmcall" : "+a" (ret) : "b" (value) : "memory");
	else
		asm volatile("vmcall" : "+a" (ret) : "b" (value) : "memory");
}

static void nothing(unsigned int ops)
{
}

static void run_self(char *argv[])
{
	int status;
	pid_t pid = vfork();

	if (!pid) {
		execvp(argv[0], argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		errx(1, "%s: failed", argv[0]);
}

static void forks(unsigned int ops)
{
	while (ops--) {
		int status;
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			errx(1, "fork");
	}
}

static void execs(unsigned int ops)
{
	char *argv[] = { "/proc/self/exe", "exit", NULL };

	while (ops--)
		run_self(argv);
}

static void pipes(unsigned int ops)
{
	static char out[4096], in[4096];
	int fds[2];

	if (pipe(fds))
		err(1, "pipe");
	while (ops--) {
		if (write(fds[1], out, sizeof(out)) != sizeof(out) ||
		    read(fds[0], in, sizeof(in)) != sizeof(in))
			err(1, "pipe");
	}
	close(fds[0]);
	close(fds[1]);
}

#define MMAP_PAGES	16

static void mmaps(unsigned int ops)
{
	while (ops--) {
		char *pages = mmap(NULL, MMAP_PAGES * 4096, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (pages == MAP_FAILED)
			err(1, "mmap");
		for (int i = 0; i < MMAP_PAGES; i++)
			pages[i * 4096] = 1;
		munmap(pages, MMAP_PAGES * 4096);
	}
}

/* Two processes hand a byte to and fro, on one CPU. */
static void switches(unsigned int ops)
{
	int there[2], back[2], status;
	char byte = 0;
	pid_t pid;

	if (pipe(there) || pipe(back))
		err(1, "pipe");
	pid = fork();
	if (!pid) {
		while (ops-- && read(there[0], &byte, 1) == 1)
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	while (ops--) {
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			err(1, "pipe");
	}
	waitpid(pid, &status, 0);
	for (int i = 0; i < 2; i++) {
		close(there[i]);
		close(back[i]);
	}
}

static void files(unsigned int ops)
{
	static char text[512];

	while (ops--) {
		int fd = open("/tmp/heki_loops", O_RDWR | O_CREAT, 0600);

		if (fd < 0 || write(fd, text, sizeof(text)) != sizeof(text) ||
		    pread(fd, text, sizeof(text), 0) != sizeof(text))
			err(1, "/tmp/heki_loops");
		close(fd);
		unlink("/tmp/heki_loops");
	}
}

static volatile sig_atomic_t caught;

static void on_signal(int sig)
{
	caught++;
}

static void signals(unsigned int ops)
{
	signal(SIGUSR1, on_signal);
	while (ops--)
		raise(SIGUSR1);
}

static volatile unsigned int turn;

static void futex(int op, unsigned int value)
{
	syscall(SYS_futex, &turn, op, value, NULL, NULL, 0);
}

static bool run_on(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return !sched_setaffinity(0, sizeof(set), &set);
}

static void take_turns(unsigned int ops, unsigned int who)
{
	for (unsigned int i = 0; i < ops; i++) {
		while (turn != 2 * i + who)
			futex(FUTEX_WAIT, 2 * i + 1 - who);
		turn++;
		futex(FUTEX_WAKE, 1);
	}
}

static void *pong(void *ops)
{
	run_on(1);
	take_turns((uintptr_t)ops, 1);
	return NULL;
}

/* Two threads wake each other, on two CPUs. */
static void futexes(unsigned int ops)
{
	pthread_t thread;

	turn = 0;
	if (pthread_create(&thread, NULL, pong, (void *)(uintptr_t)ops))
		errx(1, "no thread");
	take_turns(ops, 0);
	pthread_join(thread, NULL);
}

/* As switches(), between processes with an LDT. It stays with this process, so this loop is the last. */
static void ldts(unsigned int ops)
{
	static bool installed;
	struct user_desc desc = {
		.limit = 1,
		.seg_32bit = 1,
		.useable = 1,
	};

	if (!installed && syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc)))
		errx(1, "modify_ldt");
	installed = true;
	switches(ops);
}

static char **command;

static void run_command(unsigned int ops)
{
	run_self(command);
}

/* Short enough that most rounds meet no timer interrupt of guest or host. */
static const struct loop {
	const char *name;
	void (*run)(unsigned int ops);
	unsigned int ops;
} loops[] = {
	/* What a measurement takes. */
	{ "nothing", nothing, 1 },
	{ "fork", forks, 1 },
	{ "exec", execs, 1 },
	{ "pipe", pipes, 25 },
	{ "mmap", mmaps, 4 },
	{ "switch", switches, 20 },
	{ "file", files, 12 },
	{ "signal", signals, 60 },
	{ "futex", futexes, 10 },
	{ "ldt", ldts, 20 },
};

#define NR_LOOPS (sizeof(loops) / sizeof(loops[0]))

static uint64_t ticks_of(const struct loop *loop)
{
	uint64_t begin = __rdtsc();

	loop->run(loop->ops);
	return __rdtsc() - begin;
}

static void count(const struct loop *loop, unsigned int number)
{
	uint64_t best = UINT64_MAX;

	loop->run(loop->ops);
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t ticks = ticks_of(loop);

		best = ticks < best ? ticks : best;
	}
	printf("figure: loop name=%s number=%u ops=%u ticks=%llu\n",
	       loop->name, number, loop->ops, (unsigned long long)best);
	fflush(stdout);
	/* The console is done by then. */
	usleep(20000);
	loop->run(loop->ops);
	for (int i = 0; i < ROUNDS; i++) {
		mark_begin(number << MARK_SHIFT);
		loop->run(loop->ops);
		mark_end(number << MARK_SHIFT);
	}
}

int main(int argc, char *argv[])
{
	struct loop loop = { .ops = 1, .run = run_command };
	uint64_t ticks;

	if (argc == 2 && !strcmp(argv[1], "exit"))
		return 0;
	if (argc == 2 && !strcmp(argv[1], "boot")) {
		printf("figure: boot ticks=%llu\n", (unsigned long long)__rdtsc());
		return 0;
	}
	mark_fd = open(MARK, O_WRONLY);
	if (mark_fd < 0)
		err(1, "%s", MARK);
	if (!run_on(0))
		err(1, "CPU 0");
	if (argc == 1) {
		for (unsigned int i = 0; i < NR_LOOPS; i++)
			count(&loops[i], i);
		return 0;
	}
	if (argc < 4 || strcmp(argv[1], "run"))
		errx(2, "usage: heki_loops [boot | run NAME CMD...]");
	command = argv + 3;
	mark_begin(MARK_SEAL);
	ticks = ticks_of(&loop);
	mark_end(MARK_SEAL);
	printf("figure: run name=%s ticks=%llu\n", argv[2], (unsigned long long)ticks);
	return 0;
}
