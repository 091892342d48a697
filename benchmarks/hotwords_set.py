"""The sentences, names and misreadings of `hotwords.py`; ours."""

SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈"
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛超霞平刚英华慧建文玉兰志国春梅晓宇浩然子轩雨欣思佳俊博雅琪嘉怡瑞泽昊天翔鹏飞云峰"

_TERMS_ZH = """
知音 昇腾 鲲鹏 盘古大模型 通义千问 智谱清言 讯飞听见 科大讯飞 寒武纪 海光信息 紫光展锐 麒麟软件 欧拉系统
达梦数据库 同济医院 协和医院 阿司匹林 布洛芬 奥司他韦 阿莫西林 二甲双胍 冠状动脉 幽门螺杆菌 中关村
望京西 光谷广场 洪山区 汉阳造 黄鹤楼 归元寺 钟子期 俞伯牙 琴台大剧院 宁德时代 比亚迪 蔚来汽车 小鹏汽车
拼多多 得物 哔哩哔哩 米哈游 追觅 石头科技 大疆 商汤 旷视 云从科技
"""
_TERMS_EN = """
Kubernetes Nvidia PyTorch Postgres Ascend Kunpeng Zhiyin Pangu Qwen DeepSeek Anthropic Mistral Llama
Whisper Tensorflow Grafana Prometheus Terraform Ansible Jenkins Redis Kafka Cassandra Elasticsearch
Logstash Kibana Ubuntu Debian Fedora Siobhan Nguyen Schmidt Mackenzie Kowalski Papadopoulos Fitzgerald
Balasubramanian Takahashi Okonkwo Rodriguez Bjornsson Ibuprofen Amoxicillin Metformin Atorvastatin
Omeprazole Paracetamol Heathrow Wolverhampton Edinburgh Albuquerque Cincinnati Jarvis Alexa Snowboy
Granite Openpangu Huawei Xiaomi Tencent Alibaba Bytedance Siemens Bosch Accenture Deloitte
"""
_FRAMES_ZH = """
请把{}的资料发给我 我们下周要和{}开会 昨天{}已经确认了 关于{}的问题还要再讨论 {}今天没有来
这个项目由{}负责 他说{}的效果比较好 麻烦你联系一下{} 会议上提到了{}这个名字 明天上午去{}那边看看
有没有人了解{} 现在请{}发言
"""
_PLAIN_ZH = """
因为天气不好所以我们只好明天再去 请问最近的地铁站在什么地方 我觉得这个办法应该可以解决问题
他每天早上六点起床跑步 你能不能说得慢一点 会议时间改到下午三点半 大家对这个方案还有什么意见
请把手机调到静音状态 上个月的销售额比去年同期增长了百分之十二 孩子们在公园里玩得很开心
医生说要多喝水多休息 这件事情需要经过领导批准 我的行李还没有到 请打开空调把温度调到二十六度
从这里到机场大概要一个小时 今天晚上吃什么 我想预订两张去上海的高铁票 他的声音听起来有点奇怪
只要努力就一定能够成功 请您留下姓名和电话号码 系统正在升级请稍后再试 这个城市的历史非常悠久
老师让我们把作业交上去 现在播放下一首歌 你知道怎么走吗 我们公司主要做软件开发 这里的风景真是太美了
"""
_BY_HAND = """
cooper netties=Kubernetes| kuber netes=Kubernetes| in vidia=Nvidia| envidia=Nvidia| pie torch=PyTorch|
pi torch=PyTorch| post gress=Postgres| postgress=Postgres| ku peng=Kunpeng| jee in=Zhiyin|
zhi yin=Zhiyin| pan goo=Pangu| quen=Qwen| kwen=Qwen| deep seek=DeepSeek| deepseak=DeepSeek|
anthropik=Anthropic| and tropic=Anthropic| mistrall=Mistral| lama=Llama| tensor flow=Tensorflow|
graphana=Grafana| promethius=Prometheus| terra form=Terraform| ansable=Ansible| kasandra=Cassandra|
elastic search=Elasticsearch| log stash=Logstash| keebana=Kibana| you bun to=Ubuntu| ubunto=Ubuntu|
debby in=Debian| shivon=Siobhan| win=Nguyen| schmitt=Schmidt| mckenzie=Mackenzie| kovalski=Kowalski|
papadopolous=Papadopoulos| fitz gerald=Fitzgerald| taka hashi=Takahashi| rodrigues=Rodriguez|
byornson=Bjornsson| eye be profen=Ibuprofen| ibuprofin=Ibuprofen| amoxicilin=Amoxicillin|
met formin=Metformin| omeprasole=Omeprazole| heath row=Heathrow| wolver hampton=Wolverhampton|
edinboro=Edinburgh| albukerkee=Albuquerque| sinsinnati=Cincinnati| jarvas=Jarvis| a lexa=Alexa|
snow boy=Snowboy| open pangu=Openpangu| wah way=Huawei| who away=Huawei| show me=Xiaomi|
ten cent=Tencent| ali baba=Alibaba| byte dance=Bytedance| seemens=Siemens| bosh=Bosch|
axcenture=Accenture| deloit=Deloitte
"""
_FRAMES_EN = """
please send the report about {} to me| we have a meeting with {} next week|
yesterday {} confirmed the plan| i would like to know more about {}|
the problem with {} is not solved yet| {} did not come today| who is responsible for {} here|
can you spell {} for me| they moved everything to {} last year|
my doctor told me about {} in the morning| turn to {} now| there was a letter from {} on the table
"""
_PLAIN_EN = """
please turn off the light in the kitchen| the weather is going to be nice tomorrow|
i do not think that is a good idea| she was waiting for the bus when it started to rain|
we should leave early to avoid the traffic| could you repeat the last part|
he has two brothers and one sister| the meeting was moved to half past three|
there is nothing left in the fridge| call me when you arrive|
they have been working on this since last summer| the second window on the left is broken|
my sister likes to play the piano| do you want coffee or tea| the price went up by twelve percent|
we need more time to finish the report| open the door and come in|
the children are playing in the garden| nobody knows what happened there|
add milk and bread to the shopping list
"""

TERMS_ZH, FRAMES_ZH, PLAIN_ZH = _TERMS_ZH.split(), _FRAMES_ZH.split(), _PLAIN_ZH.split()
TERMS_EN = _TERMS_EN.split()


def _entries(text: str) -> list[str]:
    return [" ".join(entry.split()) for entry in text.split("|")]


BY_HAND, FRAMES_EN, PLAIN_EN = _entries(_BY_HAND), _entries(_FRAMES_EN), _entries(_PLAIN_EN)
