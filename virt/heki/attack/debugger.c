// SPDX-License-Identifier: GPL-2.0
/*
 * heki_living's debugger: what gdb would say to kgdb to set a breakpoint, let
 * the kernel run, and take the breakpoint away again.
 *
 * Neighbours: living.c. Locks: living_lock there.
 */
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/kgdb.h>
#include <linux/string.h>

#include "heki_living.h"

/* All that gdb sends, with its "+" for each answer; how it ends; where we are. */
static char said[128];
static const char *ending, *next;

/* What kgdb answers. */
static char heard[128];
static size_t nr_heard;

static int say(void)
{
	/* Should kgdb want more, it is told again to let go. */
	if (!*next)
		next = ending;
	return *next++;
}

static void hear(u8 c)
{
	if (nr_heard < sizeof(heard) - 1)
		heard[nr_heard++] = c;
}

static struct kgdb_io debugger = {
	.name = "heki_living",
	.read_char = say,
	.write_char = hear,
};

/* A packet of gdb's protocol at @to; returns what comes after it. */
static char *put_packet(char *to, const char *text)
{
	u8 sum = 0;

	for (const char *c = text; *c; c++)
		sum += *c;
	return to + sprintf(to, "$%s#%02x", text, sum);
}

static void prepare(unsigned long addr)
{
	char text[32], *to = said;

	sprintf(text, "Z0,%lx,1", addr);
	to = put_packet(to, text);
	*to++ = '+';
	to = put_packet(to, "c");
	/* The next stop. */
	*to++ = '+';
	text[0] = 'z';
	to = put_packet(to, text);
	ending = to;
	*to++ = '+';
	to = put_packet(to, "D");
	strscpy(to, "+", said + sizeof(said) - to);

	next = said;
	memset(heard, 0, sizeof(heard));
	nr_heard = 0;
}

/* Whether the first answer is @text. */
static bool was_answered(const char *text)
{
	const char *answer = strchr(heard, '$');

	return answer && !strncmp(answer + 1, text, strlen(text));
}

int debugger_breakpoint(void *addr)
{
	u8 was = READ_ONCE(*(u8 *)addr), is;
	int ret;

	prepare((unsigned long)addr);
	ret = kgdb_register_io_module(&debugger);
	if (ret)
		return ret;
	/* Nobody may come by while it is set. */
	local_irq_disable();
	kgdb_breakpoint();
	is = READ_ONCE(*(u8 *)addr);
	kgdb_breakpoint();
	local_irq_enable();
	kgdb_unregister_io_module(&debugger);

	if (READ_ONCE(*(u8 *)addr) != was)
		return -EILSEQ;
	if (was_answered("OK"))
		return is == INT3_INSN_OPCODE ? 0 : -ENODATA;
	/* The number of an error in decimal. */
	return was_answered("E01") && is == was ? -EPERM : -EIO;
}
