// SPDX-License-Identifier: GPL-2.0
/*
 * What a sealed kernel refuses because it would not survive it: each refusal is
 * an errno, at once, and the kernel goes on.
 *
 *   heki_refused            in a sealed kernel; skipped in another one
 *   heki_refused possible   in one that is not sealed: the same calls go through,
 *                           sleep as far as the freezer
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "kselftest.h"

/* Passes if a call failed with errno wanted. */
static void refused(const char *what, long ret, int wanted)
{
	int err = ret < 0 ? errno : 0;

	if (err == ENOSYS || err == ENOENT)
		ksft_test_result_skip("%s: this kernel does not have it\n", what);
	else
		ksft_test_result(err == wanted, "%s: %s\n", what, strerror(err));
}

static long load_module(const char *name, const char *params)
{
	struct utsname uts;
	char path[256];
	long ret;
	int fd, err;

	uname(&uts);
	snprintf(path, sizeof(path), "/lib/modules/%s/kernel/virt/heki/%s",
		 uts.release, name);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -1;
	ret = syscall(SYS_finit_module, fd, params, 0);
	err = errno;
	close(fd);
	errno = err;
	return ret;
}

static long unload_module(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK);
}

static long load_kexec_image(void)
{
	return syscall(SYS_kexec_load, 0, 0, NULL, KEXEC_ARCH_X86_64);
}

static long load_kexec_file(void)
{
	return syscall(SYS_kexec_file_load, -1, -1, 0, NULL, KEXEC_FILE_NO_INITRAMFS);
}

static long write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	long ret;
	int err;

	if (fd < 0)
		return -1;
	ret = write(fd, text, strlen(text));
	err = errno;
	close(fd);
	errno = err;
	return ret;
}

static bool file_has(const char *path, const char *word)
{
	char text[64] = "";
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return false;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(fd);
	return strstr(text, word);
}

static void sleep_refused(const char *what, const char *state)
{
	static const char path[] = "/sys/power/state";

	if (file_has(path, state))
		refused(what, write_file(path, state), EPERM);
	else
		ksft_test_result_skip("%s: this kernel does not have it\n", what);
}

static void possible(const char *what, long ret)
{
	ksft_test_result(ret >= 0, "%s: %s\n", what, ret < 0 ? strerror(errno) : "done");
}

/* Up to where all tasks are frozen, and back. */
static void sleep_possible(const char *what, const char *state)
{
	if (!file_has("/sys/power/state", state) || write_file("/sys/power/pm_test", "freezer") < 0)
		ksft_test_result_skip("%s: this kernel cannot test it\n", what);
	else
		possible(what, write_file("/sys/power/state", state));
}

static void all_possible(void)
{
	ksft_set_plan(6);
	possible("unload of a module", unload_module("heki_attack"));
	possible("load of a module", load_module("attack/heki_attack.ko", ""));
	possible("kexec_load", load_kexec_image());
	write_file("/sys/module/suspend/parameters/pm_test_delay", "0");
	write_file("/sys/module/hibernate/parameters/pm_test_delay", "0");
	sleep_possible("suspend to RAM", "mem");
	sleep_possible("suspend to idle", "freeze");
	sleep_possible("hibernation", "disk");
	write_file("/sys/power/pm_test", "none");
}

int main(int argc, char *argv[])
{
	struct stat st;

	ksft_print_header();
	if (argc > 1 && !strcmp(argv[1], "possible")) {
		all_possible();
		ksft_finished();
	}
	if (stat("/sys/module/heki_guest", &st))
		ksft_exit_skip("this kernel is not sealed\n");
	ksft_set_plan(10);
	refused("second load", load_module("heki_guest.ko", ""), EPERM);
	refused("load of another module",
		load_module("attack/heki_attack.ko", ""), EPERM);
	refused("unload of heki_guest", unload_module("heki_guest"), EPERM);
	refused("unload of another module", unload_module("heki_attack"), EPERM);
	refused("kexec_load", load_kexec_image(), EPERM);
	refused("kexec_file_load", load_kexec_file(), EPERM);
	refused("modules turned on again",
		write_file("/proc/sys/kernel/modules_disabled", "0"), EINVAL);
	sleep_refused("suspend to RAM", "mem");
	sleep_refused("suspend to idle", "freeze");
	sleep_refused("hibernation", "disk");
	ksft_finished();
}
